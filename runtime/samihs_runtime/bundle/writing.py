"""Write a bundle: built beside its destination, verified, then renamed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from samihs_runtime.bundle.checks import MANIFEST, sha256_of
from samihs_runtime.bundle.entries import FileEntry
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.bundle.opened import ENGINES, Bundle
from samihs_runtime.errors import OutputError
from samihs_runtime.folder_lock import held_alone


def _anything(target: Path) -> None:
    """Refuse no bundle."""


def write_bundle(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    destination: str | os.PathLike[str],
    *,
    may_replace: Callable[[Path], None] = _anything,
) -> Bundle:
    """Make a bundle from a folder's files; a bundle already at the destination is replaced.

    The new one is built and verified under a temporary name next to the destination, then renamed:
    a failure or an interruption leaves the old one unchanged.

    Args:
        folder: the files, named as in the manifest's graphs. A manifest in it is ignored; its
            ``engines/`` is copied but not listed.
        manifest: its ``files`` are ignored and determined anew.
        destination: the bundle's folder.
        may_replace: called with the destination if it exists, once the new bundle is ready; raises
            to refuse. No other process changes the old one between this call and the renames.

    Raises:
        BundleError: the manifest does not match the files.
        OutputError: the destination is something other than a bundle, cannot be written, or is
            being changed by another process; or whatever ``may_replace`` raises.
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
        _swap(fresh, target, old, may_replace)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        rest = f"; the one that was there is now {old}" if old.exists() else ""
        raise OutputError(f"cannot write the bundle {target}: {error}{rest}") from error
    finally:
        if not old.exists():  # otherwise it is the only copy of the old bundle
            shutil.rmtree(scratch, ignore_errors=True)
    return Bundle.open(target)


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


def _swap(fresh: Path, target: Path, old: Path, may_replace: Callable[[Path], None]) -> None:
    """Put ``fresh`` in the target's place; restore the old one if that fails or is interrupted."""
    if not target.exists():
        fresh.rename(target)
        return
    with held_alone(target, "changes the bundle"):  # no one adds adapters to it meanwhile
        may_replace(target)
        try:
            target.rename(old)
            fresh.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
