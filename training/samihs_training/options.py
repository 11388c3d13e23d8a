"""Frozen dataclasses built from options given by name in a recipe or on a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from samihs_runtime.errors import UsageError

T = TypeVar("T")


def with_options(kind: Callable[..., T], options: Mapping[str, Any], what: str) -> T:
    """An instance of the dataclass ``kind`` with its fields set to the options.

    Args:
        kind: the dataclass; errors of its own checks pass through.
        options: field -> value.
        what: what messages call the instance: ``loss bce``, ``[data]``.

    Raises:
        UsageError: an option is unknown, missing or of the wrong type.
    """
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        listed = ", ".join(known) or "none"
        raise UsageError(f"{what}: unknown option {', '.join(unknown)}; known: {listed}")
    missing = [
        name
        for name, each in known.items()
        if name not in options and each.default is MISSING and each.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{what}: {', '.join(missing)} is missing")
    try:
        return kind(**options)
    except TypeError as error:  # such as a string compared with a number
        raise UsageError(f"{what}: an option of the wrong type ({error})") from error
