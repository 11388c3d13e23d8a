"""``manifest.json``: everything the runtime knows about a bundle, checked field by field.

The manifest is the contract between export and runtime (see the package for the files it lists).
Tensor contract of every graph, at every precision::

    encoder: hu f32 [B,1,S,S], window f32 [B,2] (low, high HU)  ->  embedding f32 [B,E,G,G]
    decoder: embedding, points f32 [B,N,2], labels i32 [B,N], prior f32 [B,1,M,M],
             has_prior f32 [B]  ->  logits f32 [B,1,M,M], mask u8 [B,S,S], score f32 [B]
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Self

from samihs_runtime.errors import BundleError

SCHEMA = 1
FAMILIES = ("onnx", "trt")
"""Graph families: for ONNX Runtime, and as the source of TensorRT engines."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
WINDOW_RULES = ("fixed", "percentiles")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OPTIONAL = ("adapter_sets", "mask_cells")
"""Fields that older bundles lack; their defaults are used then."""
_OPTIONAL_OF_SETS = ("method",)
"""The same of adapter sets."""
_OTHER_VERSION = "install the version of samihs that wrote it, or export the bundle again"


@dataclass(frozen=True)
class WindowRule:
    """How the two numbers of the encoder's ``window`` input are determined."""

    rule: str
    """``fixed``: low and high are HU. ``percentiles``: they are percentiles of the slice."""
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.rule not in WINDOW_RULES:
            raise _wrong("window.rule", self.rule, f"one of {', '.join(WINDOW_RULES)}")
        if not self.low < self.high:
            raise _wrong("window", f"low {self.low}, high {self.high}", "low below high")
        if self.rule == "percentiles" and not (self.low >= 0 and self.high <= 100):
            raise _wrong("window", f"{self.low} to {self.high}", "percentiles from 0 to 100")


@dataclass(frozen=True)
class GraphEntry:
    """One encoder and decoder of one family and precision; paths relative to the bundle."""

    family: str
    precision: str
    encoder: str
    decoder: str

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise _wrong("graphs.family", self.family, f"one of {', '.join(FAMILIES)}")
        if self.precision not in PRECISIONS:
            raise _wrong("graphs.precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        for path in (self.encoder, self.decoder):
            check_relative(path)
            if "/" not in path:  # what lies beside a graph must be listed: an engine is not
                raise _wrong("graphs", path, "a path in a folder, such as onnx/encoder.onnx")


@dataclass(frozen=True)
class FileEntry:
    """The exact hash and size that a listed file must have."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise _wrong("files.sha256", self.sha256, "64 lower-case hexadecimal digits")
        if self.bytes < 0:
            raise _wrong("files.bytes", self.bytes, "a size of at least 0")


@dataclass(frozen=True)
class AdapterTensors:
    """Where an adapter set keeps its tensors for the graph pair of this family and precision."""

    family: str
    precision: str
    path: str
    """safetensors, relative to the bundle: ``encoder/<initializer>``, ``decoder/<initializer>``."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise _wrong("adapter_sets.tensors.family", self.family, f"one of {_listed(FAMILIES)}")
        if self.precision not in PRECISIONS:
            expected = f"one of {_listed(PRECISIONS)}"
            raise _wrong("adapter_sets.tensors.precision", self.precision, expected)
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
            raise _wrong("adapter_sets.base_sha256", self.base_sha256, expected)
        pairs = [(each.family, each.precision) for each in self.tensors]
        if not pairs or len(set(pairs)) < len(pairs):
            raise _wrong("adapter_sets.tensors", pairs, "each family and precision once")
        check_relative(self.reference)

    def __str__(self) -> str:
        """Its name and, if stated, its method: ``north (lora)``."""
        return f"{self.name} ({method_name(self.method)})" if self.method else self.name

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the set, relative to the bundle."""
        return (*(each.path for each in self.tensors), self.reference)


@dataclass(frozen=True)
class Manifest:
    """A bundle's description. The file may have no other fields than these, and all except those in
    :data:`_OPTIONAL` are required."""

    name: str
    version: str
    preset: str
    """Model preset the graphs were built from, such as ``vit_mini``."""
    intended_use: str
    training_data: str
    clinical_use: bool
    slice_size: int
    """S: rows and columns of the slices that the graphs take and of the masks they return."""
    image_size: int
    """Side of the model's own frame, pixels (inside the graphs)."""
    grid: int
    """G: tokens along one side of the embedding."""
    embedding_channels: int
    """E."""
    window: WindowRule
    score_threshold: float
    """A mask whose score is below this is reported as ``found: false``."""
    plausible_hu: tuple[float, float]
    """Range in which the mean HU at a click must lie for a slice to be tried, if none is named."""
    graphs: tuple[GraphEntry, ...]
    mask_cells: int = 4
    """Cells of the low-resolution mask along a token's side; SAM has 4."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Relative path -> hash and size; filled in by :func:`samihs_runtime.bundle.write_bundle`."""
    method: Mapping[str, Any] = field(default_factory=dict)
    merge: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    adapter_sets: tuple[AdapterSet, ...] = ()
    """Other sites' adapters over the same base."""

    @property
    def mask_size(self) -> int:
        """M: side of the low-resolution logits, and of a prior."""
        return self.mask_cells * self.grid

    @property
    def mirrored(self) -> bool:
        """Whether an answer is the mean over the slice and its mirror image (within the graphs)."""
        return self.method.get("mirrored") is True

    def __post_init__(self) -> None:
        for key in ("slice_size", "image_size", "grid", "embedding_channels", "mask_cells"):
            if getattr(self, key) < 1:
                raise _wrong(key, getattr(self, key), "a positive integer")
        if not self.plausible_hu[0] < self.plausible_hu[1]:
            raise _wrong("plausible_hu", list(self.plausible_hu), "[low, high] with low below high")
        if not self.graphs:
            raise _wrong("graphs", "none", "at least one graph pair")
        pairs = [(graph.family, graph.precision) for graph in self.graphs]
        if len(set(pairs)) < len(pairs):
            raise _wrong("graphs", pairs, "each family and precision once")
        for path in self.files:
            check_relative(path)
        names = [each.name for each in self.adapter_sets]
        if len(set(names)) < len(names):
            raise _wrong("adapter_sets", names, "each name once")

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read and check a manifest.

        Raises:
            BundleError: not a JSON object, another schema, or a field that is missing, unknown, of
                the wrong type or out of range; the message names it.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"manifest.json is no JSON ({error}); export the bundle again"
            ) from error
        if not isinstance(raw, dict):
            raise _wrong("the top level", type(raw).__name__, "a JSON object")
        schema = raw.pop("schema", None)
        if schema != SCHEMA:
            raise BundleError(
                f"manifest.json: schema is {schema!r}, expected {SCHEMA}, which this version of "
                f"samihs reads; {_OTHER_VERSION}"
            )
        known = {each.name for each in dataclasses.fields(cls)}
        _check_keys(raw, known, "manifest.json", optional=_OPTIONAL)
        return cls(**{key: _READERS[key](key, value) for key, value in raw.items()})

    def to_json(self) -> str:
        """The manifest as text; :meth:`from_json` of it gives an equal manifest."""
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        # An optional field that has its default is left out, so that older versions can read it.
        for each in dataclasses.fields(self):
            if each.name in _OPTIONAL and getattr(self, each.name) == each.default:
                del data[each.name]
        for made in data.get("adapter_sets", ()):
            if not made["method"]:
                del made["method"]
        return json.dumps(data, indent=2, allow_nan=False) + "\n"


def method_name(method: Mapping[str, Any]) -> str:
    """The name of an adaptation method, such as ``pr`` or ``lora``; ``unknown`` if not stated."""
    return str(method.get("adapters", "unknown"))


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


def _wrong(key: str, came: object, expected: str) -> BundleError:
    return BundleError(
        f"manifest.json: {key} is {came!r}, expected {expected}; export the bundle again"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _check_keys(
    raw: Mapping[str, Any], known: set[str], where: str, optional: Sequence[str] = ()
) -> None:
    missing, unknown = sorted(known - set(raw) - set(optional)), sorted(set(raw) - known)
    if missing or unknown:
        faults = [f"missing {', '.join(missing)}"] if missing else []
        faults += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise BundleError(f"{where}: {'; '.join(faults)}; {_OTHER_VERSION}")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(key, value, "a text")
    return value


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _integer(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, value, "an integer")
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            if math.isfinite(value):
                return float(value)
    raise _wrong(key, value, "a finite number")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(key, value, "a JSON object")
    return value


def _range(key: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong(key, value, "[low, high]")
    return _number(key, value[0]), _number(key, value[1])


def _window(key: str, value: Any) -> WindowRule:
    raw = _mapping(key, value)
    _check_keys(raw, {"rule", "low", "high"}, f"manifest.json: {key}")
    low, high = _number("window.low", raw["low"]), _number("window.high", raw["high"])
    return WindowRule(_text("window.rule", raw["rule"]), low, high)


def _graphs(key: str, value: Any) -> tuple[GraphEntry, ...]:
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    names = {each.name for each in dataclasses.fields(GraphEntry)}
    for entry in value:
        _check_keys(_mapping(key, entry), names, f"manifest.json: {key}")
    return tuple(
        GraphEntry(**{name: _text(f"{key}.{name}", entry[name]) for name in names})
        for entry in value
    )


def _adapter_sets(key: str, value: Any) -> tuple[AdapterSet, ...]:
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    return tuple(_adapter_set(key, _mapping(key, entry)) for entry in value)


def _adapter_set(key: str, raw: Mapping[str, Any]) -> AdapterSet:
    readers: dict[str, Callable[[str, Any], Any]] = {
        **dict.fromkeys(("name", "base_sha256", "training_data", "reference"), _text),
        "window": _window,
        "score_threshold": _number,
        "tensors": _adapter_tensors,
        **dict.fromkeys(("method", "merge", "parity", "accuracy", "provenance"), _mapping),
    }
    _check_keys(raw, set(readers), f"manifest.json: {key}", optional=_OPTIONAL_OF_SETS)
    return AdapterSet(**{name: readers[name](f"{key}.{name}", raw[name]) for name in raw})


def _adapter_tensors(key: str, value: Any) -> tuple[AdapterTensors, ...]:
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    names = {each.name for each in dataclasses.fields(AdapterTensors)}
    for entry in value:
        _check_keys(_mapping(key, entry), names, f"manifest.json: {key}")
    return tuple(
        AdapterTensors(**{name: _text(f"{key}.{name}", entry[name]) for name in names})
        for entry in value
    )


def _files(key: str, value: Any) -> dict[str, FileEntry]:
    files = {}
    for path, entry in _mapping(key, value).items():
        _check_keys(_mapping(key, entry), {"sha256", "bytes"}, f"manifest.json: {key}: {path}")
        sha256 = _text(f"files.{path}.sha256", entry["sha256"])
        files[path] = FileEntry(sha256, _integer(f"files.{path}.bytes", entry["bytes"]))
    return files


_READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("name", "version", "preset", "intended_use", "training_data"), _text),
    "clinical_use": _flag,
    **dict.fromkeys(
        ("slice_size", "image_size", "grid", "embedding_channels", "mask_cells"), _integer
    ),
    "window": _window,
    "score_threshold": _number,
    "plausible_hu": _range,
    "graphs": _graphs,
    "files": _files,
    "adapter_sets": _adapter_sets,
    **dict.fromkeys(("method", "merge", "parity", "accuracy", "provenance"), _mapping),
}
