"""Read headers: everything before the pixels, from any file that claims to be DICOM."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from samihs_runtime.errors import StudyError
from samihs_runtime.wording import counted

from .fields import items, strings, text, value
from .files import PREFIX_BYTES, SourceFile, looks_like_dicom, source_at
from .limits import MAX_DEFLATED_BYTES

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.2"
CT_CLASSES = (CT_IMAGE, ENHANCED_CT_IMAGE, LEGACY_CONVERTED_CT_IMAGE)
DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage, PS3.4 B.5
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # Deflated Explicit VR Little Endian, PS3.5 A.5


@dataclass(frozen=True, eq=False)
class Header:
    """One DICOM object without its pixels."""

    source: SourceFile
    dataset: Any
    """pydicom.Dataset, whose file_meta always has a TransferSyntaxUID."""

    @property
    def uid(self) -> str:
        """SOPInstanceUID, or the meta information's copy of it (PS3.10 7.1); empty if both lack."""
        stored = text(self.dataset.file_meta, "MediaStorageSOPInstanceUID")
        return text(self.dataset, "SOPInstanceUID") or stored


@dataclass(frozen=True, eq=False)
class Headers:
    """What was found in a study's files."""

    images: list[Header]
    damaged: list[SourceFile]
    """Files that start like DICOM but could not be parsed or end before their image does; and empty
    files, which may have been slices."""
    unreadable: list[SourceFile]
    """Files and folders that the user may not read, whatever they are."""
    others: int
    """Files that are not DICOM at all, and DICOM objects that are not images."""
    notes: list[str]


def read_headers(sources: Iterable[SourceFile], follow_dicomdir: bool) -> Headers:
    """Headers of all images; for a DICOMDIR given alone, of the files that it refers to.

    In a folder a DICOMDIR is skipped, since its files are found there anyway.
    """
    found = Headers([], [], [], 0, [])
    others = 0
    for source in sources:
        dataset = _try(source, found)
        if dataset is None:
            others += 1
        elif _is_dicomdir(dataset):
            if follow_dicomdir:
                return _follow(source, dataset)
            others += 1
        elif value(dataset, "Rows") is None:
            others += 1
            if _is_ct(dataset):  # truncated within its header
                found.damaged.append(source)
        else:
            found.images.append(Header(source, dataset))
    return replace(found, others=others - len(found.damaged) - len(found.unreadable))


def open_dataset(source: SourceFile, header_only: bool) -> Any:
    """The parsed object; None if the file is not DICOM. Raises what pydicom raises."""
    with source.open() as stream:
        start = stream.read(PREFIX_BYTES)
        if not start:
            raise EOFError(f"{source.name} is empty")
        if not looks_like_dicom(start):
            return None
        if _DEFLATED in (rest := stream.read(2**12)):
            _check_deflated(source, start + rest, stream)
        stream.seek(0)
        dataset = pydicom.dcmread(stream, stop_before_pixels=header_only, force=True)
        if not header_only:
            _ = dataset.get("PixelData")  # read while the stream is open
    _ensure_transfer_syntax(dataset)
    return dataset


def _try(source: SourceFile, found: Headers) -> Any:
    """The parsed header; None if the file is not DICOM, or was added to ``found`` as damaged or
    unreadable."""
    try:
        dataset = open_dataset(source, header_only=True)
    except StudyError:
        raise
    except PermissionError:
        found.unreadable.append(source)
        return None
    except Exception:  # a corrupt header makes pydicom raise nearly anything, even MemoryError
        found.damaged.append(source)
        return None
    if dataset is not None and not text(dataset, "SOPClassUID") and not _is_dicomdir(dataset):
        found.damaged.append(source)
        return None
    return dataset


def _ensure_transfer_syntax(dataset: Any) -> None:
    """For files without meta information, set the encoding that pydicom has detected."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = FileMetaDataset()
    if not text(meta, "TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_deflated(source: SourceFile, start: bytes, stream: BinaryIO) -> None:
    """pydicom inflates without a limit, so measure first."""
    meta_length = int.from_bytes(start[140:144], "little")  # (0002,0000) UL, right after "DICM"
    packed = (start + stream.read())[144 + meta_length :]
    if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MAX_DEFLATED_BYTES)) >= (
        MAX_DEFLATED_BYTES
    ):
        limit = MAX_DEFLATED_BYTES / 2**20
        raise StudyError(
            f"{source.name}: a deflated file that expands beyond {limit:g} MiB", reason="over_limit"
        )


def _is_dicomdir(dataset: Any) -> bool:
    return _stored_class(dataset) == DICOMDIR


def _is_ct(dataset: Any) -> bool:
    """Whether it is CT, also by the meta information: a truncated file may have nothing else."""
    return bool({text(dataset, "SOPClassUID"), _stored_class(dataset)} & {*CT_CLASSES})


def _stored_class(dataset: Any) -> str:
    return text(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")


def _follow(directory: SourceFile, dataset: Any) -> Headers:
    """The images that a DICOMDIR's records name and that exist (PS3.3 F.3)."""
    root = directory.path.parent
    records = items(dataset, "DirectoryRecordSequence")
    named = [strings(record, "ReferencedFileID") for record in records]
    named = [parts for parts in named if parts]
    paths = [path for path in (_locate(root, parts) for parts in named) if path]
    if not paths:
        raise StudyError(
            f"{directory.name}: refers to {counted(len(named), 'file')}, none of which is beside "
            "it",
            reason="missing",
        )
    headers = read_headers([source_at(path) for path in paths], follow_dicomdir=False)
    if len(paths) < len(named):
        missing = len(named) - len(paths)
        headers.notes.append(f"{missing} of the {len(named)} files the DICOMDIR names are missing")
    return headers


def _locate(root: Path, parts: tuple[str, ...]) -> Path | None:
    """A referenced file, below the DICOMDIR's folder only.

    File IDs are upper case (PS3.10 8.5); some are not, and media are often copied in lower case.
    """
    if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    for spell in (str, str.upper, str.lower):
        path = root.joinpath(*map(spell, parts))
        try:
            if path.is_file():
                return path
        except PermissionError:  # in a folder without permission: reported as unreadable
            return path
    return None
