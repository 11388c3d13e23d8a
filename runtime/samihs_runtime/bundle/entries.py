"""What a manifest consists of: windows, graphs, files and adapter sets, each checked when made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from samihs_runtime.errors import BundleError
from samihs_runtime.precisions import PRECISIONS

FAMILIES = ("onnx", "trt")
"""Graph families: for ONNX Runtime, and as the source of TensorRT engines."""
WINDOW_RULES = ("fixed", "percentiles")
THRESHOLDS = (-1.0, 2.0)
"""What a score threshold may be."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class WindowRule:
    """How the two numbers of the encoder's ``window`` input are determined."""

    rule: str
    """``fixed``: low and high are HU. ``percentiles``: they are percentiles of the slice."""
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.rule not in WINDOW_RULES:
            raise wrong_field("window.rule", self.rule, f"one of {_listed(WINDOW_RULES)}")
        if not self.low < self.high:
            raise wrong_field("window", f"low {self.low}, high {self.high}", "low below high")
        if self.rule == "percentiles" and not (self.low >= 0 and self.high <= 100):
            raise wrong_field("window", f"{self.low} to {self.high}", "percentiles from 0 to 100")


@dataclass(frozen=True)
class GraphEntry:
    """One encoder and decoder of one family and precision; paths relative to the bundle."""

    family: str
    precision: str
    encoder: str
    decoder: str

    def __post_init__(self) -> None:
        _check_kind("graphs", self.family, self.precision)
        for path in (self.encoder, self.decoder):
            check_relative(path)
            if "/" not in path:  # what lies beside a graph must be listed: an engine is not
                raise wrong_field("graphs", path, "a path in a folder, such as onnx/encoder.onnx")


@dataclass(frozen=True)
class FileEntry:
    """The exact hash and size that a listed file must have."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise wrong_field("files.sha256", self.sha256, "64 lower-case hexadecimal digits")
        if self.bytes < 0:
            raise wrong_field("files.bytes", self.bytes, "a size of at least 0")


@dataclass(frozen=True)
class AdapterTensors:
    """Where an adapter set keeps its tensors for the graph pair of this family and precision."""

    family: str
    precision: str
    path: str
    """safetensors, relative to the bundle: ``encoder/<initializer>``, ``decoder/<initializer>``."""

    def __post_init__(self) -> None:
        _check_kind("adapter_sets.tensors", self.family, self.precision)
        check_relative(self.path)


@dataclass(frozen=True)
class AdapterSet:
    """One site's adapters over the bundle's base: tensors that replace the bundle's own."""

    name: str
    """The name that ``--adapters`` takes."""
    base_sha256: str
    """Of the base checkpoint that both sets of adapters were trained on."""
    training_data: str
    window: WindowRule
    score_threshold: float
    tensors: tuple[AdapterTensors, ...]
    reference: str
    """Parity cases with torch's answers, relative to the bundle, for ``samihs-export verify``."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """How SAM was adapted, as in the manifest; empty in sets of older versions."""
    merge: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_set_name(self.name)
        if not _SHA256.fullmatch(self.base_sha256):
            expected = "64 lower-case hexadecimal digits"
            raise wrong_field("adapter_sets.base_sha256", self.base_sha256, expected)
        pairs = [(each.family, each.precision) for each in self.tensors]
        if not pairs or len(set(pairs)) < len(pairs):
            raise wrong_field("adapter_sets.tensors", pairs, "each family and precision once")
        check_relative(self.reference)
        check_threshold("adapter_sets.score_threshold", self.score_threshold)

    def __str__(self) -> str:
        """Its name and, if stated, its method: ``north (lora)``."""
        return f"{self.name} ({method_name(self.method)})" if self.method else self.name

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the set, relative to the bundle."""
        return (*(each.path for each in self.tensors), self.reference)


def method_name(method: Mapping[str, Any]) -> str:
    """The name of an adaptation method, such as ``pr`` or ``lora``; ``unknown`` if not stated."""
    return str(method.get("adapters", "unknown"))


def check_threshold(key: str, value: float) -> None:
    """Refuse a threshold that is none, such as a percentage. Raises BundleError.

    A score is a regression: what separates best may lie outside 0 to 1, but not far.
    """
    if not THRESHOLDS[0] <= value <= THRESHOLDS[1]:
        raise wrong_field(key, value, f"a score from {THRESHOLDS[0]:g} to {THRESHOLDS[1]:g}")


def check_set_name(name: str) -> None:
    """Refuse a name that cannot serve as a folder name or option value. Raises BundleError."""
    if not _SET_NAME.fullmatch(name):
        raise BundleError(
            f"adapter set name {name!r}: expected up to 64 letters, digits, dots, dashes and "
            "underscores, a letter or digit first"
        )


def check_relative(path: str) -> None:
    """Refuse a path that could name anything outside the bundle's folder.

    Raises:
        BundleError: absolute, with a drive, a backslash or a ``..`` part, or no file name at all,
            such as one with a null character.
    """
    if not path.isprintable():
        raise BundleError(
            f"bundle path {path!r} has characters that no file name of a bundle has; do not use "
            "this bundle unless you know who made it"
        )
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path:
        raise BundleError(
            f"bundle path {path!r} could leave the bundle's folder: expected a relative path "
            "without '..'; do not use this bundle unless you know who made it"
        )


def wrong_field(key: str, came: object, expected: str) -> BundleError:
    """The error for a field of ``manifest.json``: what it is, and what was expected."""
    return BundleError(
        f"manifest.json: {key} is {came!r}, expected {expected}; export the bundle again"
    )


def _check_kind(key: str, family: str, precision: str) -> None:
    """Refuse a family or a precision of graphs that there is not. Raises BundleError."""
    if family not in FAMILIES:
        raise wrong_field(f"{key}.family", family, f"one of {_listed(FAMILIES)}")
    if precision not in PRECISIONS:
        raise wrong_field(f"{key}.precision", precision, f"one of {_listed(PRECISIONS)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
