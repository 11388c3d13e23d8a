"""Loading a series, beside reading and decoding its pixels alone: what all the checks cost.

    python benchmarks/loading.py [--slices 300] [--runs 3] [--coding jpeg-lossless]

Phantom slices at 512 x 512, repeated to the number asked for and coded as asked: JPEG lossless by
dcmtk's ``dcmcjpeg`` (Debian: dcmtk), RLE by pydicom. The floor is ``pydicom.dcmread`` and
``pixel_array`` of each file, in the same run, in turn: A B A B. One JSON file in
``benchmarks/results/``; a line on the terminal.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pydicom
from pydicom.uid import RLELossless, generate_uid
from record import Record, Series
from stopwatch import interleaved

from samihs_runtime.study import read_study
from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

DISTINCT = 6
"""Slices that are made; a phantom's slice takes a second, and decoding does not care."""


def main() -> None:
    """Make, measure, print, write."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        files = _series(Path(scratch), options.slices, options.coding)
        works = {"floor": lambda: _decode(files), "ours": lambda: read_study(files[0].parent)}
        taken = interleaved(works, options.runs)
    floor, ours = taken["floor"], taken["ours"]
    ratio = statistics.median(ours) / statistics.median(floor)
    what = f"{options.slices} slices, {options.coding}"
    series = (
        Series("read_study", what, "s", ours),
        Series("pydicom, read and decode", what, "s", floor),
    )
    where = Record(f"loading-{options.coding}", series).write()
    print(
        f"{options.slices} slices, {options.coding}: read and decode {statistics.median(floor):.2f}"
        f" s, read_study {statistics.median(ours):.2f} s, ratio {ratio:.2f}\nwritten  {where}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--coding", choices=["jpeg-lossless", "rle"], default="jpeg-lossless")
    return parser.parse_args()


def _series(folder: Path, count: int, coding: str) -> list[Path]:
    """``count`` coded files, 1 mm apart."""
    dcmcjpeg = shutil.which("dcmcjpeg")
    if coding == "jpeg-lossless" and dcmcjpeg is None:
        sys.exit("error: dcmcjpeg is not installed (Debian: dcmtk); or take --coding rle")
    study = generate_study(5, PhantomOptions(slices=DISTINCT, tilt_deg=0.0, bleeds=()))
    write_dicom(study, folder / "plain")
    coded = []
    for path in sorted((folder / "plain").glob("*.dcm")):
        if coding == "rle":
            image = pydicom.dcmread(path)
            image.compress(RLELossless, generate_instance_uid=False)
        else:
            target = path.with_suffix(".jpeg")
            subprocess.run([str(dcmcjpeg), "+e1", path, target], check=True)
            image = pydicom.dcmread(target)
        coded.append(image)
    files = []
    (folder / "coded").mkdir()
    for index in range(count):
        image = coded[index % DISTINCT]
        x, y, _ = image.ImagePositionPatient
        image.ImagePositionPatient = [x, y, float(index)]
        image.SliceThickness = 1.0
        image.InstanceNumber = index + 1
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        files.append(folder / "coded" / f"IM{index:04d}")
        image.save_as(files[-1])
    return files


def _decode(files: list[Path]) -> int:
    """The floor: each file read and its pixels decoded, nothing else."""
    return sum(int(pydicom.dcmread(path).pixel_array[0, 0]) for path in files)


if __name__ == "__main__":
    main()
