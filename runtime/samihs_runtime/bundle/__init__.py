"""A bundle: the folder in which a model travels from export to runtime.

::

    <bundle>/manifest.json     description, and sha256 and size of every other file
            /onnx/, /trt/      encoder and decoder graphs, for ONNX Runtime and as TensorRT's source
            /adapters/         other sites' tensors over the same base, one folder for each set
            /engines/          built on the machine that runs them; each has its own sidecar
                               (``backends/sidecar.py``), so the manifest does not list them

Nothing that the manifest lists is loaded before :meth:`Bundle.open` has verified every file against
it. Engines are code that was built on this machine, and are trusted as such.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from samihs_runtime.bundle.checks import (
    MANIFEST,
    check_file,
    check_graphs_listed,
    check_sets_listed,
    read_manifest,
    sha256_of,
)
from samihs_runtime.bundle.manifest import (
    AdapterSet,
    FileEntry,
    GraphEntry,
    Manifest,
    WindowRule,
)
from samihs_runtime.bundle.trained_prompts import TrainedPrompts
from samihs_runtime.errors import BundleError, OutputError
from samihs_runtime.folder_lock import held_alone

__all__ = [
    "ADAPTERS",
    "ENGINES",
    "MANIFEST",
    "AdapterSet",
    "Bundle",
    "FileEntry",
    "GraphEntry",
    "GraphFiles",
    "Manifest",
    "WindowRule",
    "sha256_of",
    "shipped_bundle",
    "write_bundle",
]

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
        for name, entry in manifest.files.items():
            check_file(root, name, entry)
        check_graphs_listed(root, manifest)
        check_sets_listed(root, manifest)
        return cls(root, manifest, hashlib.sha256(text).hexdigest())

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

        Its manifest then has the set's name, training data, window, score threshold and accuracy.

        Raises:
            BundleError: the bundle has no set of that name; the message lists those that it has.
        """
        if name is None:
            return self
        chosen = next((each for each in self.manifest.adapter_sets if each.name == name), None)
        if chosen is None:
            have = ", ".join(each.name for each in self.manifest.adapter_sets) or "none"
            raise BundleError(f"bundle {self.root} has no adapters {name!r}: there are {have}")
        manifest = dataclasses.replace(
            self.manifest,
            name=f"{self.manifest.name}+{name}",
            training_data=chosen.training_data,
            window=chosen.window,
            score_threshold=chosen.score_threshold,
            accuracy=chosen.accuracy,
        )
        identity = hashlib.sha256(f"{self.id}/{name}".encode()).hexdigest()
        return dataclasses.replace(self, manifest=manifest, id=identity, adapters=chosen)

    @property
    def trained_prompts(self) -> TrainedPrompts:
        """The prompts that its adapters (those of the chosen set, if any) were trained on."""
        chosen = self.manifest if self.adapters is None else self.adapters
        return TrainedPrompts.of(chosen.provenance)

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


def write_bundle(
    folder: str | os.PathLike[str], manifest: Manifest, destination: str | os.PathLike[str]
) -> Bundle:
    """Make a bundle from a folder's files; a bundle already at the destination is replaced.

    The new one is built and verified under a temporary name next to the destination, then renamed:
    a failure or an interruption leaves the old one unchanged.

    Args:
        folder: the files, named as in the manifest's graphs. A manifest in it is ignored; its
            ``engines/`` is copied but not listed.
        manifest: its ``files`` are ignored and determined anew.
        destination: the bundle's folder.

    Raises:
        BundleError: the manifest does not match the files.
        OutputError: the destination is something other than a bundle, cannot be written, or is
            being changed by another process.
    """
    source, target = Path(folder), Path(destination)
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise OutputError(
            f"{target} exists and is no bundle (no {MANIFEST} in it): name another place, or "
            "remove it yourself"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write beside {target}: {error.strerror}") from error
    fresh, old = scratch / "new", scratch / "old"
    try:
        shutil.copytree(source, fresh, ignore=_ignore_manifest(source))
        files = {
            name: FileEntry(sha256_of(fresh / name), (fresh / name).stat().st_size)
            for name in _files_below(fresh)
        }
        listed = dataclasses.replace(manifest, files=files)
        (fresh / MANIFEST).write_text(listed.to_json(), encoding="utf-8")
        Bundle.open(fresh)
        _swap(fresh, target, old)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        rest = f"; the one that was there is now {old}" if old.exists() else ""
        raise OutputError(f"cannot write the bundle {target}: {error}{rest}") from error
    finally:
        if not old.exists():  # otherwise it is the only copy of the old bundle
            shutil.rmtree(scratch, ignore_errors=True)
    return Bundle.open(target)


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


def _files_below(root: Path) -> list[str]:
    """Relative names of all files except the manifest and the engines."""
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in names if name.parts[0] not in (MANIFEST, ENGINES))


def _ignore_manifest(source: Path) -> Callable[[str, list[str]], list[str]]:
    def ignore(folder: str, names: list[str]) -> list[str]:
        return [MANIFEST] if Path(folder) == source and MANIFEST in names else []

    return ignore


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put ``fresh`` in the target's place; restore the old one if that fails or is interrupted."""
    if not target.exists():
        fresh.rename(target)
        return
    with held_alone(target, "changes the bundle"):  # no one adds adapters to it meanwhile
        try:
            target.rename(old)
            fresh.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
