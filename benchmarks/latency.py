"""The shipped bundle as its user meets it: a cold command, a folder, an encode, clicks.

    python benchmarks/latency.py [--bundle DIR] [--backend auto] [--runs 5]

The cold commands are timed as whole processes, beside a Python that only imports numpy: the floor
on this machine, in the same rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import Record, Series
from stopwatch import interleaved, process, seconds

from samihs_runtime.propagation import deepest_point
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomStudy,
    generate_study,
    write_dicom,
)

SLICES = 32
SHIPPED, FLOOR = "samihs-infer, shipped bundle", "python + numpy"


def measure(bundle: Path | None = None, backend: str = "auto", runs: int = 5) -> Record:
    """All figures of one bundle on one backend."""
    options = PhantomOptions(slices=SLICES, bleeds=(BleedType.INTRAPARENCHYMAL,))
    study = generate_study(11, options)
    largest = int(np.argmax((study.bleeds > 0).sum((1, 2))))
    click = deepest_point(study.bleeds[largest] > 0)
    with tempfile.TemporaryDirectory() as scratch:
        write_dicom(study, Path(scratch) / "study")
        series = _cold(Path(scratch), largest, click, bundle, backend, runs)
        series += _warm(Path(scratch) / "study", study, largest, click, bundle, backend, runs)
    return Record("latency", tuple(series), {"slices": SLICES, "backend": backend})


def _cold(
    scratch: Path,
    largest: int,
    click: tuple[float, float],
    bundle: Path | None,
    backend: str,
    runs: int,
) -> list[Series]:
    """Whole processes: one slice, the whole folder, and the floor, in turn."""
    x, y = click
    common = ["--backend", backend, "--overwrite", "--out", str(scratch / "out")]
    common += ["--bundle", str(bundle)] if bundle else []
    infer = [sys.executable, "-m", "samihs_runtime.cli"]
    one = sorted((scratch / "study").glob("*.dcm"))[largest]
    commands = {
        (SHIPPED, "cold, one slice"): [*infer, str(one), "--point", f"{x:g},{y:g}", *common],
        (SHIPPED, f"cold, folder of {SLICES}, whole lesion"): [
            *(*infer, str(scratch / "study"), "--point", f"{x:g},{y:g},{largest}"), *common
        ],
        (SHIPPED, f"cold, folder of {SLICES}, first mask"): [
            *(*infer, str(scratch / "study"), "--point", f"{x:g},{y:g},{largest}"),
            *("--no-propagation", *common),
        ],
        (SHIPPED, "cold, --help"): [*infer, "--help"],
        (FLOOR, "cold"): [sys.executable, "-c", "import numpy"],
    }  # fmt: skip
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        process(command)  # bytecode and disk cache, as on any machine that has run it once
    for _ in range(runs):
        for name, command in commands.items():
            taken[name].append(process(command))
    series = []
    for (subject, quantity), pairs in taken.items():
        series.append(Series(subject, quantity, "s", tuple(wall for wall, _ in pairs)))
        series.append(
            Series(subject, f"{quantity}, peak memory", "MB", tuple(mb for _, mb in pairs))
        )
    return series


def _warm(
    folder: Path,
    study: PhantomStudy,
    largest: int,
    click: tuple[float, float],
    bundle: Path | None,
    backend: str,
    runs: int,
) -> list[Series]:
    """Within one process: load, encode, click, first mask of a folder, all its embeddings."""
    hu, prompt = study.hu[largest], Prompt((click,), (FOREGROUND,))
    with Segmenter.from_bundle(bundle, backend) as segmenter:
        subject = segmenter.backend.description
        encoded = segmenter.encode(hu)
        turn = iter(range(1, 10**9))
        taken = interleaved(
            {
                "load a folder": lambda: read_study(folder),
                "encode": lambda: segmenter.encode(hu + np.int16(next(turn))),
            },
            runs,
        )
        taken |= interleaved({"click": lambda: segmenter.predict(encoded, prompt)}, 20)
        first, rest = [], []
        for _ in range(min(runs, 3)):
            first.append(seconds(lambda: _first_mask(segmenter, folder, largest, prompt)))
            rest.append(seconds(lambda: _all_embeddings(segmenter, folder)))
    taken |= {"folder to first mask": tuple(first), "folder to last embedding": tuple(rest)}
    return [Series(subject, quantity, "s", samples) for quantity, samples in taken.items()]


def _first_mask(segmenter: Segmenter, folder: Path, index: int, prompt: Prompt) -> None:
    series = read_study(folder)
    segmenter.predict(segmenter.encode(series.hu[index]), prompt)


def _all_embeddings(segmenter: Segmenter, folder: Path) -> None:
    with segmenter.open(read_study(folder)) as session:
        session.wait()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"written  {measure(options.bundle, options.backend, options.runs).write()}")


if __name__ == "__main__":
    main()
