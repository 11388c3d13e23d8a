"""An opened bundle: verified files, and the choice of adapters and precision."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Self

from samihs_runtime.bundle.checks import (
    MANIFEST,
    Stamp,
    check_file,
    check_graphs_listed,
    check_sets_listed,
    check_still,
    read_manifest,
)
from samihs_runtime.bundle.entries import AdapterSet
from samihs_runtime.bundle.graph_identity import files_beside
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.bundle.trained_prompts import TrainedPrompts
from samihs_runtime.errors import BundleError

ENGINES = "engines"
ADAPTERS = "adapters"


@dataclass(frozen=True)
class GraphFiles:
    """One verified encoder and decoder."""

    encoder: Path
    decoder: Path
    precision: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every listed file was present, with the right size and hash."""

    root: Path
    manifest: Manifest
    id: str
    """sha256 of manifest.json, and thereby of everything that it lists; also of the adapter set's
    name and of the precision, if one was asked for."""
    adapters: AdapterSet | None = None
    """The set that replaces the bundle's own adapters (:meth:`with_adapters`)."""
    precision: str | None = None
    """The one asked for (:meth:`with_precision`); None if any graph may be used."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict, repr=False, compare=False)
    """Of every listed file when it was verified."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read the manifest and check every file it lists, before anything is loaded.

        Raises:
            BundleError: no such folder, an invalid manifest (:meth:`Manifest.from_json`), a path
                that leads out of the folder, a missing or changed file, a graph that is not
                listed, or an unlisted file next to the graphs.
        """
        root = Path(path)
        text = read_manifest(root)
        manifest = Manifest.from_json(text)
        stamps = {name: check_file(root, name, each) for name, each in manifest.files.items()}
        check_graphs_listed(root, manifest)
        check_sets_listed(root, manifest)
        return cls(root, manifest, hashlib.sha256(text).hexdigest(), stamps=stamps)

    def check_unchanged(self, path: Path) -> None:
        """Check that a listed file, and what lies beside it if it is a graph, is still what was
        verified: graphs may be loaded long after the bundle was opened.

        Args:
            path: of the file, as this bundle gives it.

        Raises:
            BundleError: changed or removed since then.
        """
        own = path.relative_to(self.root).as_posix()
        for name in (own, *files_beside(self.manifest, own)):
            if name in self.stamps:
                check_still(self.root, name, self.manifest.files[name], self.stamps[name])

    def graph(self, family: str, precision: str | None = None) -> GraphFiles:
        """Encoder and decoder of a family; if no precision is given, the first pair listed.

        Raises:
            BundleError: the bundle holds no such pair.
        """
        for entry in self.manifest.graphs:
            if entry.family == family and precision in (None, entry.precision):
                encoder, decoder = self.root / entry.encoder, self.root / entry.decoder
                return GraphFiles(encoder, decoder, entry.precision)
        have = ", ".join(f"{each.family} {each.precision}" for each in self.manifest.graphs)
        wanted = family if precision is None else f"{family} {precision}"
        raise BundleError(
            f"bundle {self.root} has no {wanted} graphs, only {have}; export it with them"
        )

    def with_precision(self, precision: str | None) -> Self:
        """The same bundle with the graphs of one precision only; None returns it unchanged.

        Raises:
            BundleError: the bundle has no graphs of it; the message lists those that it has.
        """
        if precision is None:
            return self
        graphs = tuple(each for each in self.manifest.graphs if each.precision == precision)
        if not graphs:
            have = ", ".join(dict.fromkeys(each.precision for each in self.manifest.graphs))
            raise BundleError(
                f"bundle {self.root} has no {precision} graphs, only {have}; export it with "
                f"--precision {precision}"
            )
        manifest = dataclasses.replace(self.manifest, graphs=graphs)
        identity = hashlib.sha256(f"{self.id} {precision}".encode()).hexdigest()
        return dataclasses.replace(self, manifest=manifest, id=identity, precision=precision)

    def with_adapters(self, name: str | None) -> Self:
        """The same bundle with another site's adapters; None returns it unchanged.

        Its manifest then describes the set: name, method, training data, window, score threshold,
        figures and provenance.

        Raises:
            BundleError: the bundle has no set of that name; the message lists those that it has.
        """
        if name is None:
            return self
        chosen = next((each for each in self.manifest.adapter_sets if each.name == name), None)
        if chosen is None:
            have = ", ".join(map(str, self.manifest.adapter_sets)) or "none"
            raise BundleError(f"bundle {self.root} has no adapters {name!r}: there are {have}")
        manifest = dataclasses.replace(
            self.manifest,
            name=f"{self.manifest.name}+{name}",
            training_data=chosen.training_data,
            window=chosen.window,
            score_threshold=chosen.score_threshold,
            method={**chosen.method, **({"mirrored": True} if self.manifest.mirrored else {})},
            merge=chosen.merge,
            parity=chosen.parity,
            accuracy=chosen.accuracy,
            provenance=chosen.provenance,
        )
        identity = hashlib.sha256(f"{self.id}/{name}".encode()).hexdigest()
        return dataclasses.replace(self, manifest=manifest, id=identity, adapters=chosen)

    @property
    def trained_prompts(self) -> TrainedPrompts:
        """The prompts that its adapters (those of the chosen set, if any) were trained on."""
        return TrainedPrompts.of(self.manifest.provenance)

    def adapter_tensors(self, family: str, precision: str) -> Path | None:
        """The file of tensors to replace in that graph pair; None for the bundle's own adapters.

        Raises:
            BundleError: the chosen adapters have none for that pair (8-bit graphs).
        """
        if self.adapters is None:
            return None
        for each in self.adapters.tensors:
            if (each.family, each.precision) == (family, precision):
                return self.root / each.path
        have = ", ".join(f"{each.family} {each.precision}" for each in self.adapters.tensors)
        raise BundleError(
            f"adapters {self.adapters.name} have no tensors for the {family} {precision} graphs, "
            f"only for {have}"
        )

    @property
    def engines(self) -> Path:
        """The folder of this bundle's TensorRT engines, whether or not it exists."""
        return self.root / ENGINES


def shipped_bundle() -> Path:
    """The bundle inside the package.

    Raises:
        BundleError: there is none, or more than one.
    """
    folder = Path(str(resources.files("samihs_runtime"))) / "bundles"
    found = sorted(each.parent for each in folder.glob(f"*/{MANIFEST}"))
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise BundleError(
            f"{folder} should hold exactly one bundle, found {names}: "
            "install samihs again, or name a bundle with --bundle"
        )
    return found[0]
