"""Add adapter sets to a bundle in place, even while it is being served."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.bundle.checks import (
    MANIFEST,
    check_graphs_listed,
    check_sets_listed,
    read_manifest,
    sha256_of,
)
from samihs_runtime.bundle.entries import AdapterSet, FileEntry, check_relative
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.bundle.opened import Bundle
from samihs_runtime.errors import BundleError, OutputError
from samihs_runtime.folder_lock import held_alone


def add_set(
    bundle: Bundle, made: AdapterSet, files: Mapping[str, Path], *, replace: bool = False
) -> Bundle:
    """Add an adapter set to a bundle; graphs, engines and other sets are not touched.

    Making a set takes minutes, so the manifest is read again under the bundle's lock: sets that
    were added since ``bundle`` was opened are kept. The new manifest is written last, in one step;
    until then the bundle is the old one.

    Args:
        bundle: as it was opened when the set was made.
        made: the set.
        files: path in the bundle -> the file to copy there. An unlisted file there, left by an
            interrupted attempt, is replaced.
        replace: whether an existing set of that name is replaced.

    Returns:
        The bundle, reopened.

    Raises:
        BundleError: the bundle is a different one by now, already has a set of that name, or the
            manifest would not match the files; nothing was changed.
        OutputError: it cannot be written, or another process is changing it; nothing was changed.
    """
    root = bundle.root
    try:
        with held_alone(root, "changes the bundle"):
            now = Manifest.from_json(read_manifest(root))
            _check_same(bundle, now)
            old = [each for each in now.adapter_sets if each.name == made.name]
            if old and not replace:
                raise BundleError(
                    f"bundle {root} already has adapters {made.name}: give another name, or "
                    "replace them"
                )
            kept = [each for each in now.adapter_sets if each.name != made.name]
            gone = [name for each in old for name in each.files]
            _commit(root, dataclasses.replace(now, adapter_sets=(*kept, made)), files, gone)
            _remove(root, gone)
    except OSError as error:
        raise OutputError(f"cannot write into the bundle {root}: {error}") from error
    return Bundle.open(root)


def _check_same(bundle: Bundle, now: Manifest) -> None:
    """Check that the graphs are those in which the set was verified."""
    if _without_sets(bundle.manifest) != _without_sets(now):
        raise BundleError(
            f"bundle {bundle.root} was exported again since it was opened: add the adapters again"
        )


def _without_sets(manifest: Manifest) -> Manifest:
    theirs = {name for each in manifest.adapter_sets for name in each.files}
    files = {name: entry for name, entry in manifest.files.items() if name not in theirs}
    return dataclasses.replace(manifest, adapter_sets=(), files=files)


def _commit(root: Path, manifest: Manifest, files: Mapping[str, Path], gone: Iterable[str]) -> None:
    """Copy the files, then write the manifest without those that are gone; undo all on failure."""
    written: list[Path] = []
    try:
        for name, source in files.items():
            check_relative(name)
            if name in manifest.files:
                raise OutputError(f"{root / name} is listed already: it is not replaced")
            (root / name).unlink(missing_ok=True)
            written.append(root / name)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / name)
        added = {name: FileEntry(sha256_of(p), p.stat().st_size) for name, p in files.items()}
        kept = {name: entry for name, entry in manifest.files.items() if name not in gone}
        listed = dataclasses.replace(manifest, files={**kept, **added})
        check_graphs_listed(root, listed)
        check_sets_listed(root, listed)
        atomic_write(root / MANIFEST, listed.to_json())
    except BaseException:
        _remove(root, [each.relative_to(root).as_posix() for each in written])
        raise


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files that are no longer listed, and folders that are then empty."""
    for name in names:
        with contextlib.suppress(OSError):
            (root / name).unlink()
        for folder in Path(name).parents[:-1]:
            with contextlib.suppress(OSError):
                (root / folder).rmdir()
