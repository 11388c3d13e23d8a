"""Reads mutated DICOM files, one after another, in a process of its own: what it survives counts.

    python mutation_worker.py FOLDER FIRST LAST

FOLDER holds good files. Mutation number k is always the same: its bytes, and so any failure, can be
made again from k alone. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from samihs_runtime.errors import StudyError
from samihs_runtime.study import read_study


def mutated(originals: list[bytes], number: int) -> bytes:
    """One of the files, damaged in one of five ways: bytes set, a stretch cut out, doubled, the end
    cut off, or the head of one file spliced to the tail of another."""
    rng = np.random.default_rng(number)
    data = bytearray(originals[int(rng.integers(len(originals)))])
    at, length = int(rng.integers(128, len(data))), int(rng.integers(1, 64))
    match int(rng.integers(5)):
        case 0:
            for k in rng.integers(132, len(data), int(rng.integers(1, 12))):
                data[k] = int(rng.integers(256))
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at - length : at]
        case 3:
            del data[at:]
        case _:
            other = originals[int(rng.integers(len(originals)))]
            data[at:] = other[int(rng.integers(128, len(other))) :]
    return bytes(data)


def main(folder: Path, first: int, last: int) -> dict[str, Any]:
    """Counts, the slowest read in seconds, the process's peak memory, and what was unexpected."""
    originals = [path.read_bytes() for path in sorted(folder.iterdir())]
    counts = {"read": 0, "refused": 0}
    slowest, unexpected = 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "IM0"
        for number in range(first, last):
            path.write_bytes(mutated(originals, number))
            started = time.perf_counter()
            try:
                series = read_study(path)
            except StudyError:
                counts["refused"] += 1
            except Exception as error:  # the very thing that is looked for
                unexpected.append(f"{number}: {type(error).__name__}: {error}")
            else:
                counts["read"] += 1
                if not (np.isfinite(series.hu).all() and (series.extents_mm > 0).all()):
                    unexpected.append(f"{number}: read, but not sound")
            slowest = max(slowest, time.perf_counter() - started)
    return {**counts, "slowest_s": slowest, "peak_mb": _peak_mb(), "unexpected": unexpected}


def _peak_mb() -> float:
    """Of this program alone: ``ru_maxrss`` counts the process that it was started from as well."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
