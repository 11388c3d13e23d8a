"""A recipe from a TOML file or a dictionary; every field is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from samihs_runtime.errors import UsageError
from samihs_training.config.data import DataConfig
from samihs_training.config.recipe import Recipe
from samihs_training.config.stage import StageConfig
from samihs_training.options import with_options

T = TypeVar("T")


def read_recipe(path: Path | None, *, quick: bool = False, base: Path | None = None) -> Recipe:
    """The recipe of a TOML file; None: the shipped one (or its quick variant).

    A name without a suffix is one of the shipped recipes, such as ``vit_mini`` or ``authors``.
    ``base``: a base to adapt, in place of the recipe's.

    Raises:
        UsageError: unreadable, an unknown or missing field, or one of the wrong type.
    """
    if path is None:
        text = _shipped("quick" if quick else "vit_mini")
    elif not path.suffix and not path.exists():
        text = _shipped(str(path))
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"the recipe {path} is no TOML: it is not in UTF-8") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}") from error
    if base is not None:
        raw |= {"base": None, "start": "", "base_checkpoint": str(base)}
    return recipe_from(raw)


def _shipped(name: str) -> str:
    recipes = resources.files("samihs_training").joinpath("recipes")
    known = sorted(each.name.removesuffix(".toml") for each in recipes.iterdir())
    if name not in known:
        raise UsageError(f"no recipe {name!r}: give a .toml file, or one of {', '.join(known)}")
    return recipes.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def recipe_from(raw: Mapping[str, Any]) -> Recipe:
    """The recipe of a nested dictionary, as TOML gives it; raises :class:`UsageError`."""
    given = dict(raw)
    if given.get("base") is not None:
        given["base"] = _build(StageConfig, given["base"], "[base]")
    given["adapt"] = _build(StageConfig, given.get("adapt"), "[adapt]")
    for name in ("mask_threshold", "score"):
        if given.get(name) is not None:
            given[name] = _build(StageConfig, given[name], f"[{name}]")
    if given.get("data") is not None:
        given["data"] = _build(DataConfig, _with_labels(given["data"]), "[data]")
    if "window" in given:
        given["window"] = _pair(given["window"])
    return _build(Recipe, given, "recipe")


def _with_labels(data: Any) -> Any:
    """[data] with its labels as texts; TOML may give numbers."""
    if not isinstance(data, Mapping) or "labels" not in data:
        return data
    labels = data["labels"]
    if not isinstance(labels, list | tuple) or not all(isinstance(e, str | int) for e in labels):
        raise UsageError(f"[data]: labels = {labels!r}: expected a list such as [1, 2]")
    return {**data, "labels": tuple(map(str, labels))}


def _pair(window: Any) -> tuple[float, float]:
    try:
        low, high = window
        return float(low), float(high)
    except (TypeError, ValueError) as error:
        raise UsageError(f"window = {window!r}: expected two numbers, low and high") from error


def _build(kind: type[T], raw: Mapping[str, Any] | None, where: str) -> T:
    if raw is None:
        raise UsageError(f"{where} is missing")
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} = {raw!r}: expected a table")
    _check_types(kind, raw, where)
    return with_options(kind, raw, where)


def _check_types(kind: type[Any], raw: Mapping[str, Any], where: str) -> None:
    """Refuse a string where a number is expected, and the like; TOML's 1 is accepted for 1.0."""
    hints = get_type_hints(kind)
    for name, value in raw.items():
        wanted = hints.get(name)
        if wanted not in (bool, int, float, str):
            continue
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise UsageError(f"{where}: {name} = {value!r}: expected {_WORDS[wanted]}")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
