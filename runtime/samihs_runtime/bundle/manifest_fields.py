"""The fields of ``manifest.json``: read from JSON, with an error that names the one at fault."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from samihs_runtime.bundle.entries import (
    AdapterSet,
    AdapterTensors,
    FileEntry,
    GraphEntry,
    WindowRule,
    wrong_field,
)
from samihs_runtime.errors import BundleError

R = TypeVar("R", GraphEntry, AdapterTensors)
OTHER_VERSION = "install the version of samihs that wrote it, or export the bundle again"
_OPTIONAL_OF_SETS = ("method",)
"""Fields that the adapter sets of older bundles lack; their defaults are used then."""


def check_keys(
    raw: Mapping[str, Any], known: set[str], where: str, optional: Sequence[str] = ()
) -> None:
    """Refuse fields that are missing or unknown; ``optional`` ones may be missing.

    Raises:
        BundleError: names them.
    """
    missing, unknown = sorted(known - set(raw) - set(optional)), sorted(set(raw) - known)
    if missing or unknown:
        faults = [f"missing {', '.join(missing)}"] if missing else []
        faults += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise BundleError(f"{where}: {'; '.join(faults)}; {OTHER_VERSION}")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise wrong_field(key, value, "a text")
    return value


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_field(key, value, "true or false")
    return value


def _integer(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_field(key, value, "an integer")
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            if math.isfinite(value):
                return float(value)
    raise wrong_field(key, value, "a finite number")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_field(key, value, "a JSON object")
    return value


def _range(key: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise wrong_field(key, value, "[low, high]")
    return _number(key, value[0]), _number(key, value[1])


def _window(key: str, value: Any) -> WindowRule:
    raw = _mapping(key, value)
    check_keys(raw, {"rule", "low", "high"}, f"manifest.json: {key}")
    low, high = _number("window.low", raw["low"]), _number("window.high", raw["high"])
    return WindowRule(_text("window.rule", raw["rule"]), low, high)


def _texts(kind: type[R], key: str, value: Any) -> tuple[R, ...]:
    """A list of JSON objects as instances of ``kind``, whose fields are all texts."""
    if not isinstance(value, list):
        raise wrong_field(key, value, "a list")
    names = {each.name for each in dataclasses.fields(kind)}
    for entry in value:
        check_keys(_mapping(key, entry), names, f"manifest.json: {key}")
    return tuple(
        kind(**{name: _text(f"{key}.{name}", entry[name]) for name in names}) for entry in value
    )


def _adapter_sets(key: str, value: Any) -> tuple[AdapterSet, ...]:
    if not isinstance(value, list):
        raise wrong_field(key, value, "a list")
    return tuple(_adapter_set(key, _mapping(key, entry)) for entry in value)


def _adapter_set(key: str, raw: Mapping[str, Any]) -> AdapterSet:
    readers: dict[str, Callable[[str, Any], Any]] = {
        **dict.fromkeys(("name", "base_sha256", "training_data", "reference"), _text),
        "window": _window,
        "score_threshold": _number,
        "tensors": partial(_texts, AdapterTensors),
        **dict.fromkeys(("method", "merge", "parity", "accuracy", "provenance"), _mapping),
    }
    check_keys(raw, set(readers), f"manifest.json: {key}", optional=_OPTIONAL_OF_SETS)
    return AdapterSet(**{name: readers[name](f"{key}.{name}", raw[name]) for name in raw})


def _files(key: str, value: Any) -> dict[str, FileEntry]:
    files = {}
    for path, entry in _mapping(key, value).items():
        check_keys(_mapping(key, entry), {"sha256", "bytes"}, f"manifest.json: {key}: {path}")
        sha256 = _text(f"files.{path}.sha256", entry["sha256"])
        files[path] = FileEntry(sha256, _integer(f"files.{path}.bytes", entry["bytes"]))
    return files


READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("name", "version", "preset", "intended_use", "training_data"), _text),
    "clinical_use": _flag,
    **dict.fromkeys(
        ("slice_size", "image_size", "grid", "embedding_channels", "mask_cells"), _integer
    ),
    "window": _window,
    "score_threshold": _number,
    "plausible_hu": _range,
    "graphs": partial(_texts, GraphEntry),
    "files": _files,
    "adapter_sets": _adapter_sets,
    **dict.fromkeys(("method", "merge", "parity", "accuracy", "provenance"), _mapping),
}
"""Field of a manifest -> reads its value."""
