"""Find the files of a study: one file, a folder, a zip, or what a DICOMDIR refers to."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from samihs_runtime.errors import StudyError

from .limits import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_NESTING,
    MAX_ZIP_BYTES,
    MAX_ZIP_MEMBER_BYTES,
)

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What nearly all zips use. Of the others zipfile expands 4 KiB at once, whatever they hold: with
bzip2 that can be gigabytes."""
_ZIP_MEMBER = b"PK\x03\x04"
"""How each member of a zip begins, and so the zip, unless something was put before it."""
PREFIX_BYTES = 132
"""PS3.10 7.1: 128 bytes of preamble and ``DICM``."""


@dataclass(frozen=True, eq=False)
class SourceFile:
    """One file to try. Nothing is ever unpacked to disk."""

    path: Path
    """Where it is; for a member of a zip the zip's path followed by the member's name."""
    open: Callable[[], BinaryIO]
    """A fresh, seekable stream from the start."""

    @property
    def name(self) -> str:
        """For notes and messages: a byte that is not UTF-8, which Python keeps in a path as a
        surrogate, cannot be written into a report and is a question mark here."""
        return self.path.name.encode(errors="replace").decode()


@contextmanager
def study_files(path: Path) -> Iterator[list[SourceFile]]:
    """All files below `path`, sorted by path; the streams are valid within the context.

    Files without read permission and folders that may not be listed are included: opening them
    raises PermissionError.

    Raises StudyError: nothing there, or in a folder without permission; above the limits; an unsafe
    or damaged zip.
    """
    kind = _kind(path)
    if stat.S_ISDIR(kind):
        yield _in_folder(path)
    elif not stat.S_ISREG(kind):
        raise StudyError(f"{path.name}: neither a file nor a folder", reason="no_dicom")
    elif _is_zip(path):
        with _zip(path) as archive:
            yield _in_zip(path, archive)
    else:
        yield [file_on_disk(path)]


def _kind(path: Path) -> int:
    """``st_mode``; StudyError if there is nothing, or nothing that may be accessed."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StudyError(f"{path.name}: no such file or folder", reason="missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise StudyError(f"{path.name}: cannot be read ({why})", reason="no_access") from error


def file_on_disk(path: Path) -> SourceFile:
    """One file as a source; StudyError if it is DICOM and too large: other files are not read."""
    if path.stat().st_size > MAX_FILE_BYTES and _starts_like_dicom(path):
        limit = MAX_FILE_BYTES / 2**30
        raise StudyError(
            f"{path.name}: larger than the limit of {limit:g} GiB", reason="over_limit"
        )
    return SourceFile(path, lambda: path.open("rb"))


def source_at(path: Path) -> SourceFile:
    """The same, but a file that may not be accessed gives a source that cannot be opened."""
    try:
        return file_on_disk(path)
    except PermissionError:  # its folder may be listed but not entered
        return _unreadable(path)


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that starts like this claims to be DICOM.

    Args:
        start: its first :data:`PREFIX_BYTES`.

    Returns:
        True also for a data set without preamble, as in some exports: group 0002 or 0008 first.
    """
    headerless = start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"
    return start[128:] == b"DICM" or headerless


def _starts_like_dicom(path: Path) -> bool:
    return looks_like_dicom(_start(path))


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(PREFIX_BYTES)


def _is_zip(path: Path) -> bool:
    """Whether it is meant to be one: what a download was cut off from lacks the directory at the
    end by which zipfile knows a zip."""
    try:
        start = _start(path)
        if looks_like_dicom(start):
            return False
        return start.startswith(_ZIP_MEMBER) or zipfile.is_zipfile(path)
    except OSError as error:
        raise StudyError(
            f"{path.name}: cannot be read ({error.strerror})", reason="no_access"
        ) from error


def _in_folder(folder: Path) -> list[SourceFile]:
    """Regular files below a folder. Links to folders are not followed, so there are no cycles."""
    found: list[SourceFile] = []

    def unlisted(error: OSError) -> None:
        found.append(_unreadable(Path(error.filename or folder)))

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        depth = len(Path(parent).relative_to(folder).parts)
        if depth >= MAX_NESTING:
            folders.clear()
        for name in names:
            path = Path(parent, name)
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    found.append(file_on_disk(path))
            except PermissionError:
                found.append(_unreadable(path))
            except OSError:  # a broken link
                continue
            if len(found) > MAX_FILES:
                raise StudyError(
                    f"{folder.name}: more than {MAX_FILES} files; point to the study's own folder",
                    reason="over_limit",
                )
    return sorted(found, key=lambda source: source.path)


def _unreadable(path: Path) -> SourceFile:
    def opened() -> BinaryIO:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    return SourceFile(path, opened)


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise StudyError(f"{path.name}: a damaged zip file", reason="damaged") from error
    with archive:
        yield archive


def _in_zip(path: Path, archive: zipfile.ZipFile) -> list[SourceFile]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > MAX_FILES:
        raise StudyError(
            f"{path.name}: more than {MAX_FILES} files in the zip", reason="over_limit"
        )
    for info in members:
        _check_member(path, info)
    sources = [
        SourceFile(path / info.filename, _member_opener(path, archive, info)) for info in members
    ]
    _check_sizes(path, [info.file_size for info in members], sources)
    return sorted(sources, key=lambda source: source.path)


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse unsafe members. Names are only shown, never written to, but a zip with a name that
    tries to escape is not to be trusted."""
    name = PurePosixPath(info.filename.replace("\\", "/"))
    drive = len(info.filename) > 1 and info.filename[1] == ":"
    if name.is_absolute() or ".." in name.parts or drive:
        problem = "the zip has a member whose path leaves it; not read"
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "the zip holds a symbolic link; not read"
    elif info.flag_bits & 0x1:
        problem = "the zip is encrypted; unpack it first"
    elif info.compress_type not in _METHODS:
        problem = f"{name.name} is packed neither with Deflate nor as it is; unpack it first"
    else:
        return
    raise StudyError(f"{path.name}: {problem}", reason="refused_zip")


def _check_sizes(path: Path, sizes: list[int], sources: list[SourceFile]) -> None:
    """Refuse what expands beyond the limits. Only DICOM does: of any other file the start is read.

    Args:
        path: the zip.
        sizes: of its members, expanded, as the zip states them.
        sources: its members, in the same order.
    """
    if sum(sizes) <= MAX_ZIP_BYTES and max(sizes, default=0) <= MAX_ZIP_MEMBER_BYTES:
        return
    sizes = [size for size, source in zip(sizes, sources, strict=True) if _is_dicom(source)]
    if max(sizes, default=0) > MAX_ZIP_MEMBER_BYTES:
        limit = MAX_ZIP_MEMBER_BYTES / 2**30
        raise StudyError(
            f"{path.name}: a DICOM file in it expands to more than {limit:g} GiB",
            reason="over_limit",
        )
    if sum(sizes) > MAX_ZIP_BYTES:
        limit = MAX_ZIP_BYTES / 2**30
        raise StudyError(
            f"{path.name}: its DICOM files expand to more than {limit:g} GiB", reason="over_limit"
        )


def _is_dicom(member: SourceFile) -> bool:
    try:
        with member.open() as stream:
            return looks_like_dicom(stream.read(PREFIX_BYTES))
    except (zipfile.BadZipFile, zlib.error, EOFError):  # reported when its header is read
        return False


def _member_opener(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        # Buffered, since reading a header seeks back a few bytes, and a zip stream would restart.
        # zipfile inflates no more than is read and stops at the stated size, so a false directory
        # cannot expand beyond the limit.
        try:
            return io.BufferedReader(archive.open(info), 2**16)  # type: ignore[type-var]
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise StudyError(
                f"{path.name}: a damaged or unusual zip file", reason="damaged"
            ) from error

    return opened
