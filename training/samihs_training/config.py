"""A training recipe: a TOML file, checked field by field into frozen dataclasses."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from samihs_runtime.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """Optimiser steps. Not minutes: a busy machine would train less, and nobody would know."""
    learning_rate: float
    batch: int = 4
    """Slices per step."""
    prompts: int = 4
    """Clicks per slice: the encoder runs once for all of them."""
    weight_decay: float = 0.01
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    correct: float = 0.35
    """Share of steps with a second, corrective click on the largest error, and the first answer as
    prior mask."""
    clip: float = 1.0
    """Bound of the gradient's norm."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.prompts) < 1 or self.learning_rate <= 0:
            raise UsageError("a stage needs steps, learning_rate, batch and prompts above 0")


@dataclass(frozen=True)
class Recipe:
    """The whole of it: data, base from scratch, adapters on top."""

    base: StageConfig
    adapt: StageConfig
    preset: str = "vit_mini"
    rank: int = 32
    """Rank of the PR adapters."""
    slices: int = 4000
    """Phantom slices in the training cache."""
    window: tuple[float, float] = (-20.0, 100.0)
    """HU. What public 8-bit archives of head CT keep (level 40, width 120)."""
    seed: int = 1
    loss_reduction: Literal["batch", "sample"] = "sample"
    amp: bool = True
    """bfloat16 autocast."""
    checkpoint_minutes: float = 2.0


def read_recipe(path: Path | None, *, quick: bool = False) -> Recipe:
    """The recipe of a TOML file; None: the shipped one (or its quick variant).

    Raises:
        UsageError: unreadable, an unknown or missing field, or one of the wrong type.
    """
    if path is None:
        name = "quick.toml" if quick else "vit_mini.toml"
        text = resources.files("samihs_training").joinpath("recipes", name).read_text()
    else:
        try:
            text = path.read_text()
        except OSError as error:
            raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}") from error
    for stage in ("base", "adapt"):
        raw[stage] = _build(StageConfig, raw.get(stage), f"[{stage}]")
    if "window" in raw:
        raw["window"] = tuple(float(bound) for bound in raw["window"])
    return _build(Recipe, raw, "recipe")


def _build(kind: type[T], raw: dict[str, Any] | None, where: str) -> T:
    if raw is None:
        raise UsageError(f"{where} is missing")
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(raw.keys() - known)
    if unknown:
        raise UsageError(
            f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    try:
        return kind(**raw)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error
