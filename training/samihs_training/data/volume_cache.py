"""A data set read once: HU and masks of all cases in two memory-mapped files.

A cache is a folder of ``hu.i16`` and ``mask.u8`` (all voxels, case after case) and ``cases.json``
(each case's shape and geometry, its slices with hemorrhage, and hashes of its voxels). A second
start reads the JSON and the files' sizes and times, but no voxels; files that have changed make
another cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError, OutputError
from samihs_training.data.cases.case import CaseFiles, patients_of
from samihs_training.data.checking import check_labels, read_checked

SCHEMA = 3
HU_RANGE = (-32_768, 32_767)
"""int16: HU are rounded to whole numbers, as scanners store them."""


@dataclass(frozen=True, eq=False)
class CachedCase:
    """One case; the arrays are read-only memory maps."""

    name: str
    hu: NDArray[np.int16]
    """[Z, rows, columns]."""
    mask: NDArray[np.uint8]
    """Same shape, 0 or 1."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    extents_mm: NDArray[np.float64]
    """[Z]."""
    bleeding: tuple[int, ...]
    """Slices with hemorrhage."""
    volume_ml: float
    """Hemorrhage volume."""
    sha256: str
    """Hash of the HU: two cases that share it are one scan."""
    mask_sha256: str
    """Hash of the mask."""
    home: Path
    """The cache's folder, which another process opens for itself."""
    patient: str
    """Who was scanned: the name of the first of his cases."""


def open_volumes(
    folder: Path,
    cases: Iterable[CaseFiles],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CachedCase]:
    """All cases, from the cache below ``folder``, which is filled first if needed.

    ``progress(done, total)`` is called as cases are read; never on a second start.

    Raises:
        DataError: a case is faulty (its first fault), or the cache is damaged.
        OutputError: the cache cannot be written; nothing of it is left.
        UsageError: a label that was named is in no mask.
    """
    listed = list(cases)
    patients = patients_of(listed)
    home = folder / f"volumes-{_fingerprint(listed)}"
    if not home.is_dir():
        _fill(home, listed, progress)
    return load_volumes(home, patients)


def content_sha256(cases: Iterable[CachedCase]) -> str:
    """Hash of all scans and masks, whatever the cases are called and wherever their files lie."""
    lines = sorted(f"{case.sha256} {case.mask_sha256}" for case in cases)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _fingerprint(cases: list[CaseFiles]) -> str:
    """Changes with any file's path, size or time of change, and with what is read of a mask."""
    digest = hashlib.sha256(f"schema {SCHEMA}".encode())
    for case in cases:
        digest.update("\n".join(["", f"{case.name} {case.layout}", *case.labels]).encode())
        for file in case.files():
            about = file.stat()
            digest.update(f"\n{file.resolve()} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _fill(home: Path, cases: list[CaseFiles], progress: Callable[[int, int], None]) -> None:
    """Fill a folder beside it, then move that into place in one step: no cache is half filled."""
    partial = home.with_name(f".{home.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        entries, seen = [], []
        with (partial / "hu.i16").open("wb") as hu, (partial / "mask.u8").open("wb") as mask:
            for done, case in enumerate(cases, 1):
                volume = read_checked(case)
                seen.append(volume.seen)
                voxels = np.clip(np.rint(volume.hu), *HU_RANGE).astype(np.int16)
                labels = volume.labels.astype(np.uint8)
                voxels.tofile(hu)
                labels.tofile(mask)
                entries.append(
                    {
                        "name": case.name,
                        "shape": volume.hu.shape,
                        "spacing_mm": volume.spacing_mm,
                        "extents_mm": volume.extents_mm.tolist(),
                        "bleeding": np.flatnonzero(volume.labels.any((1, 2))).tolist(),
                        "volume_ml": volume.volume_ml,
                        "sha256": hashlib.sha256(voxels.tobytes()).hexdigest(),
                        "mask_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
                    }
                )
                progress(done, len(cases))
        check_labels(cases, seen)
        text = json.dumps({"schema": SCHEMA, "cases": entries})
        (partial / "cases.json").write_text(text, encoding="utf-8")
        os.replace(partial, home)
    except OSError as error:
        raise OutputError(f"cannot write the cache {home}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_volumes(home: Path, patients: Mapping[str, str] | None = None) -> list[CachedCase]:
    """The cases of the cache in the folder ``home``; no voxel is read.

    ``patients``: case -> patient, which a cache does not hold; None: each case is one.

    Raises:
        DataError: the cache is damaged.
    """
    try:
        entries: list[dict[str, Any]] = json.loads((home / "cases.json").read_text())["cases"]
        hu = np.memmap(home / "hu.i16", np.int16, "r")
        mask = np.memmap(home / "mask.u8", np.uint8, "r")
        total = sum(int(np.prod(entry["shape"])) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{home}: a damaged cache; delete the folder to read again") from error
    if not len(hu) == len(mask) == total:
        raise DataError(f"{home}: {len(hu)} voxels, expected {total}; delete it to read again")
    cases, start = [], 0
    for entry in entries:
        shape = tuple(entry["shape"])
        end = start + int(np.prod(shape))
        row, column = entry["spacing_mm"]
        cases.append(
            CachedCase(
                entry["name"],
                hu[start:end].reshape(shape),
                mask[start:end].reshape(shape),
                (row, column),
                np.asarray(entry["extents_mm"]),
                tuple(entry["bleeding"]),
                float(entry["volume_ml"]),
                entry["sha256"],
                entry["mask_sha256"],
                home,
                patients[entry["name"]] if patients else entry["name"],
            )
        )
        start = end
    return cases
