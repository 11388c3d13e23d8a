"""``manifest.json``: everything the runtime knows about a bundle, checked field by field.

The manifest is the contract between export and runtime (see the package for the files it lists).
Tensor contract of every graph, at every precision::

    encoder: hu f32 [B,1,S,S], window f32 [B,2] (low, high HU)  ->  embedding f32 [B,E,G,G]
    decoder: embedding, points f32 [B,N,2], labels i32 [B,N], prior f32 [B,1,M,M],
             has_prior f32 [B]  ->  logits f32 [B,1,M,M], mask u8 [B,S,S], score f32 [B]
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from samihs_runtime.bundle.entries import (
    AdapterSet,
    FileEntry,
    GraphEntry,
    WindowRule,
    check_relative,
    check_threshold,
    wrong_field,
)
from samihs_runtime.bundle.manifest_fields import OTHER_VERSION, READERS, check_keys
from samihs_runtime.errors import BundleError

SCHEMA = 1
_OPTIONAL = ("adapter_sets", "mask_cells")
"""Fields that older bundles lack; their defaults are used then."""


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
                raise wrong_field(key, getattr(self, key), "a positive integer")
        if not self.plausible_hu[0] < self.plausible_hu[1]:
            raise wrong_field(
                "plausible_hu", list(self.plausible_hu), "[low, high] with low below high"
            )
        check_threshold("score_threshold", self.score_threshold)
        if not self.graphs:
            raise wrong_field("graphs", "none", "at least one graph pair")
        pairs = [(graph.family, graph.precision) for graph in self.graphs]
        if len(set(pairs)) < len(pairs):
            raise wrong_field("graphs", pairs, "each family and precision once")
        for path in self.files:
            check_relative(path)
        names = [each.name for each in self.adapter_sets]
        if len(set(names)) < len(names):
            raise wrong_field("adapter_sets", names, "each name once")

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
            raise wrong_field("the top level", type(raw).__name__, "a JSON object")
        schema = raw.pop("schema", None)
        if schema != SCHEMA:
            raise BundleError(
                f"manifest.json: schema is {schema!r}, expected {SCHEMA}, which this version of "
                f"samihs reads; {OTHER_VERSION}"
            )
        known = {each.name for each in dataclasses.fields(cls)}
        check_keys(raw, known, "manifest.json", optional=_OPTIONAL)
        return cls(**{key: READERS[key](key, value) for key, value in raw.items()})

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
