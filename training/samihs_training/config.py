"""A training recipe: a TOML file, checked field by field into frozen dataclasses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from samihs_runtime.errors import UsageError
from samihs_training.frames import Frame, Grid
from samihs_training.methods import Method, ParameterRefactoring, make_method

T = TypeVar("T")


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """Optimiser steps. Not minutes: a busy machine would train less, and nobody would know."""
    learning_rate: float
    batch: int = 4
    """Slices per step, over all processes and pieces."""
    prompts: int = 4
    """Clicks per slice: the encoder runs once for all of them."""
    optimiser: Literal["adamw", "adam", "muon"] = "adamw"
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises (cosine)."""
    halve_every: int = 0
    """Steps after which the learning rate halves, again and again (step); 0: never."""
    correct: float = 0.35
    """Share of steps with a second, corrective click on the largest error, and the first answer as
    prior mask."""
    clip: float = 1.0
    """Bound of the gradient's norm; 0: none."""
    accumulate: int = 1
    """Pieces that a step's batch is cut into: less memory, the same gradient (but for losses that
    take sums over the batch)."""
    checkpoint_activations: bool = False
    """Keep each encoder block's input only and compute the rest again: less memory, more time."""
    compile: bool = False
    """torch.compile the image encoder."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then what is validated and kept; 0: off."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.prompts) < 1 or self.learning_rate <= 0:
            raise UsageError("a stage needs steps, learning_rate, batch and prompts above 0")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise UsageError(
                f"accumulate = {self.accumulate}: expected a number of pieces that divides "
                f"batch = {self.batch}"
            )
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema = {self.ema}: expected a decay from 0 (off) to below 1")
        for name, given, known in (
            ("optimiser", self.optimiser, ("adamw", "adam", "muon")),
            ("schedule", self.schedule, ("cosine", "step")),
        ):
            if given not in known:
                raise UsageError(f"{name} = {given!r}: expected {' or '.join(known)}")


@dataclass(frozen=True)
class Recipe:
    """The whole of it: data, a base (from scratch or a file), and what adapts it."""

    adapt: StageConfig
    base: StageConfig | None = None
    """How a base is trained from scratch; None where ``base_checkpoint`` gives one."""
    base_checkpoint: str = ""
    """A base to start from, our safetensors or Meta's ``.pth``."""
    image_size: int = 0
    """Frame of that base, pixels; 0: its own."""
    grid: Grid = "reduced"
    """Of a smaller frame: token grid reduced with it, or kept."""
    preset: str = "vit_mini"
    method: str = "pr"
    """How the base is adapted (``samihs_training.methods``)."""
    method_options: dict[str, Any] = field(default_factory=dict)
    rank: int = 32
    """Rank of the PR adapters, where ``method_options`` does not say."""
    slices: int = 4000
    """Phantom slices in the training cache."""
    validation_slices: int = 64
    """Phantom slices that validation clicks on; never among those trained on."""
    validate_every: int = 0
    """Steps between two validations; 0: none, and the last weights are the best."""
    window: tuple[float, float] = (-20.0, 100.0)
    """HU. What public 8-bit archives of head CT keep (level 40, width 120)."""
    seed: int = 1
    loss_reduction: Literal["batch", "sample"] = "sample"
    amp: bool = True
    """Mixed precision."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """fp16 scales its loss, so that small gradients survive."""
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.base_checkpoint):
            raise UsageError(
                "a recipe needs a [base] stage or a base_checkpoint, and not both: "
                f"[base] is {'missing' if self.base is None else 'there'}"
            )
        if self.amp_dtype not in ("bf16", "fp16"):
            raise UsageError(f"amp_dtype = {self.amp_dtype!r}: expected bf16 or fp16")
        if not self.window[0] < self.window[1]:
            raise UsageError(f"window = {list(self.window)}: expected low below high, in HU")
        self.make_method()
        Frame(self.image_size or None, self.grid)

    def make_method(self) -> Method:
        """The method with its options."""
        options = dict(self.method_options)
        if self.method == ParameterRefactoring.name:
            options.setdefault("rank", self.rank)
        return make_method(self.method, options)

    @property
    def frame(self) -> Frame:
        """The frame that a given base is loaded in."""
        return Frame(self.image_size or None, self.grid)


def read_recipe(path: Path | None, *, quick: bool = False) -> Recipe:
    """The recipe of a TOML file; None: the shipped one (or its quick variant).

    A name without a suffix is one of the shipped recipes: ``authors``, ``vit_mini``, ``quick``.

    Raises:
        UsageError: unreadable, an unknown or missing field, or one of the wrong type.
    """
    if path is None:
        text = _shipped("quick" if quick else "vit_mini")
    elif not path.suffix and not path.exists():
        text = _shipped(str(path))
    else:
        try:
            text = path.read_text()
        except OSError as error:
            raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}") from error
    return recipe_from(raw)


def _shipped(name: str) -> str:
    recipes = resources.files("samihs_training").joinpath("recipes")
    known = sorted(each.name.removesuffix(".toml") for each in recipes.iterdir())
    if name not in known:
        raise UsageError(f"no recipe {name!r}: give a .toml file, or one of {', '.join(known)}")
    return recipes.joinpath(f"{name}.toml").read_text()


def recipe_from(raw: Mapping[str, Any]) -> Recipe:
    """The recipe of a nested dictionary, as TOML gives it; raises :class:`UsageError`."""
    given = dict(raw)
    if given.get("base") is not None:
        given["base"] = _build(StageConfig, given["base"], "[base]")
    given["adapt"] = _build(StageConfig, given.get("adapt"), "[adapt]")
    if "window" in given:
        low, high = given["window"]
        given["window"] = (float(low), float(high))
    return _build(Recipe, given, "recipe")


def _build(kind: type[T], raw: Mapping[str, Any] | None, where: str) -> T:
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
