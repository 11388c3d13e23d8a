"""Whether a study is still the one that was answered, determined without reading its files."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path

_MEDIA_STORAGE_DIRECTORY = b"1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR (PS3.4 annex X), which its meta information at the start contains."""
_META_BYTES = 1024


def study_state(study: Path, out: Path) -> str:
    """A sha256 of the names, sizes and times of a study's files; another study may replace it.

    Args:
        study: a file, a folder, or a DICOMDIR, which refers to files in its folder.
        out: our output folder; if it lies within the study's, its files are no part of the study.

    Returns:
        64 hexadecimal digits; empty if none of its files can be examined, for example on a share
        that is not mounted: then nothing is known, not even that the study is a different one.
    """
    try:
        root, files = _files(study)
        ours = out.resolve()
        return _digest(root, files, ours if root.resolve() in ours.parents else None)
    except (OSError, ValueError):  # no access to a parent folder; a name that no file can have
        return ""


def _files(study: Path) -> tuple[Path, Iterable[Path]]:
    """The folder that the files' names are relative to, and the files."""
    if study.is_dir():
        return study, sorted(study.rglob("*"))
    if _is_dicomdir(study):
        return study.parent, sorted(study.parent.rglob("*"))
    return study.parent, [study]


def _is_dicomdir(path: Path) -> bool:
    with path.open("rb") as stream:
        return _MEDIA_STORAGE_DIRECTORY in stream.read(_META_BYTES)


def _digest(root: Path, files: Iterable[Path], ours: Path | None) -> str:
    digest, seen = hashlib.sha256(), False
    for path in files:
        try:
            status = path.stat()
        except OSError:  # one of many: the reader will report what is wrong with it
            continue
        if stat.S_ISDIR(status.st_mode) or (ours and path.resolve().is_relative_to(ours)):
            continue
        text = f"{path.relative_to(root)}|{status.st_size}|{status.st_mtime_ns}|"
        digest.update(text.encode(errors="surrogateescape"))
        seen = True
    return digest.hexdigest() if seen else ""
