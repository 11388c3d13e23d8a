"""Check a bundle's files against its manifest: none missing, changed, unlisted or outside it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samihs_runtime.bundle.entries import FileEntry, check_relative
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.bundle.onnx_file import external_locations
from samihs_runtime.errors import BundleError

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 4 << 20  # a manifest is some kB; a larger one is not ours
_HASHED_AT_ONCE = 4 << 20
"""Bytes hashed between two waits for the interpreter lock, which another thread may hold for
milliseconds each time. In hashlib's own steps of 256 kB the shipped bundle takes 140 of them, which
beside a busy thread took 2.4 s."""


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is replaced or written to, and costs nothing to read."""

    inode: int
    bytes: int
    modified_ns: int


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file. Raises OSError."""
    found = path.stat()
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def sha256_of(path: Path) -> str:
    """sha256 of a file, in lower-case hexadecimal."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_HASHED_AT_ONCE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def read_manifest(root: Path) -> bytes:
    """The text of a bundle's manifest. Raises BundleError if there is none or it cannot be read."""
    path = root / MANIFEST
    with _readable(path):
        if not root.is_dir():
            raise BundleError(f"no bundle at {root}: expected a folder with a {MANIFEST}")
        if not path.is_file():
            raise BundleError(f"{root} is no bundle: it holds no {MANIFEST}")
        _check_inside(root, MANIFEST)
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes: no manifest is that large")
        return path.read_bytes()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an OSError (no permission for a folder, a failing disk) into a BundleError saying why.

    Even asking whether something exists may raise PermissionError, until Python 3.14; and a link
    that leads to itself raises RuntimeError when it is resolved, until Python 3.13.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BundleError(
            f"cannot read {path}: {why}; it must be readable by you, and on a disk that works"
        ) from error


def _check_inside(root: Path, name: str) -> None:
    check_relative(name)
    if not (root / name).resolve().is_relative_to(root.resolve()):
        raise BundleError(
            f"bundle path {name!r} leads out of {root} through a symbolic link: "
            "replace the link by the file"
        )


def check_file(root: Path, name: str, entry: FileEntry) -> Stamp:
    """Check that a listed file exists inside the bundle and is unchanged. Raises BundleError.

    Returns its stamp from before it was hashed.
    """
    path = root / name
    with _readable(path):
        _check_inside(root, name)
        if not path.is_file():
            raise BundleError(f"bundle {root}: {name} is missing; copy or export the bundle again")
        stamp = stamp_of(path)
    if stamp.bytes != entry.bytes:
        raise BundleError(
            f"bundle {root}: {name} has {stamp.bytes} bytes, the manifest says {entry.bytes}: "
            "it was changed or copied in part; copy or export the bundle again"
        )
    with _readable(path):
        digest = sha256_of(path)
    if digest != entry.sha256:
        raise BundleError(
            f"bundle {root}: {name} was changed: its sha256 is {digest[:12]}..., the manifest "
            f"says {entry.sha256[:12]}...; copy or export the bundle again"
        )
    return stamp


def check_still(root: Path, name: str, entry: FileEntry, stamp: Stamp) -> None:
    """Check that a file is the one that was verified when the bundle was opened. It is hashed again
    only if its stamp is another.

    Raises BundleError.
    """
    try:
        if stamp_of(root / name) == stamp:
            return
        check_file(root, name, entry)
    except (OSError, BundleError) as error:
        raise BundleError(
            f"bundle {root}: {name} was changed or removed since the bundle was opened: open it "
            "again"
        ) from error


def check_sets_listed(root: Path, manifest: Manifest) -> None:
    """Check that every file of the adapter sets is listed. Raises BundleError."""
    for each in manifest.adapter_sets:
        for name in each.files:
            if name not in manifest.files:
                raise BundleError(
                    f"bundle {root}: {name} of adapters {each.name} is not under 'files'; add the "
                    "adapters again"
                )


def check_graphs_listed(root: Path, manifest: Manifest) -> None:
    """Check that the graphs are listed, and everything next to them, since ONNX external data is
    loaded by its name alone.

    Raises BundleError.
    """
    graphs = {name for each in manifest.graphs for name in (each.encoder, each.decoder)}
    for name in sorted(graphs - set(manifest.files)):
        raise BundleError(
            f"bundle {root}: graph {name} is not under 'files'; export the bundle again"
        )
    for name in sorted(graphs):
        _check_external(root, name, manifest)
    for folder in sorted({PurePosixPath(name).parent for name in graphs} - {PurePosixPath(".")}):
        with _readable(root / folder):
            _check_all_listed(root, folder, manifest)


def _check_external(root: Path, graph: str, manifest: Manifest) -> None:
    """Refuse a graph whose weights are in a file that was not verified, maybe outside the bundle.

    ONNX Runtime before 1.24 reads any path that a graph names.
    """
    with _readable(root / graph):
        locations = external_locations(root / graph)
    for location in sorted(locations):
        beside = str(PurePosixPath(graph).parent / location)
        if "/" in location or beside not in manifest.files:
            raise BundleError(
                f"bundle {root}: {graph} keeps weights in {location!r}, which is no listed file "
                "beside it; do not use this bundle unless you know who made it"
            )


def _check_all_listed(root: Path, folder: PurePosixPath, manifest: Manifest) -> None:
    for path in sorted((root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_dir() and name not in manifest.files:
            raise BundleError(
                f"bundle {root}: {name} is not in the manifest; remove it, or export again"
            )
