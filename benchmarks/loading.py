"""Loading a series, compared with only reading and decoding its pixels: the cost of all checks.

    python benchmarks/loading.py [--slices 300] [--runs 3] [--coding jpeg-lossless]

Phantom slices of 512 x 512, repeated up to the requested number and compressed as requested: JPEG
lossless by dcmtk's ``dcmcjpeg`` (Debian: dcmtk), RLE by pydicom. The floor is ``pydicom.dcmread``
and ``pixel_array`` of each file, in the same run, in turn: A B A B. Writes one JSON file in
``benchmarks/results/`` and prints a line.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pydicom
from pydicom.uid import RLELossless, generate_uid
from record import Record, Series, command_line, ratios
from stopwatch import interleaved

from samihs_runtime.study import read_study
from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

OURS, FLOOR = "read_study", "pydicom, read and decode"
DISTINCT = 6
"""Number of different slices: making one takes a second, and decoding time is the same."""


def measure(slices: int = 300, runs: int = 3, coding: str = "jpeg-lossless") -> Record:
    """Seconds of ``read_study`` and of the floor, in turn."""
    what = f"{slices} slices, {coding}"
    with tempfile.TemporaryDirectory() as scratch:
        files = _series(Path(scratch), slices, coding)
        works = {OURS: lambda: read_study(files[0].parent), FLOOR: lambda: _decode(files)}
        taken = interleaved(works, runs)
    series = tuple(Series(subject, what, "s", samples) for subject, samples in taken.items())
    settings = {"slices": slices, "runs": runs, "coding": coding, "reference": FLOOR}
    return Record(f"loading-{coding}", series, settings)


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
    """The floor: read each file and decode its pixels, nothing else."""
    return sum(int(pydicom.dcmread(path).pixel_array[0, 0]) for path in files)


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--coding", choices=["jpeg-lossless", "rle"], default="jpeg-lossless")
    options = parser.parse_args()
    record = measure(options.slices, options.runs, options.coding)
    ours, floor = record.series
    print(
        f"{ours.quantity}: read and decode {floor.median:.2f} s, read_study {ours.median:.2f} s, "
        f"ratio {ratios(floor.samples, ours.samples).median:.2f}"
    )
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
