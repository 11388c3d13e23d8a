"""How time and memory grow with slices, batch, prompts, image size and model.

    python benchmarks/scaling.py [--rounds 3] [--largest 1024]

The report fits an exponent to each axis and compares it with theory (``scaling_tables.py``). Times
are interleaved within one process; a peak is that of a separate process, which does one thing once,
minus the peak of one that only prepares for it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from record import Record, Series, command_line
from scaling_tables import MEMORY
from stopwatch import UNLIMITED, Budget, interleaved, process
from weights import of_shipped

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

READ, ENCODE, DECODE = "read a folder, slices", "encode, batch", "decode, prompts"
SIZE, PRESET = "vit_b in torch, image size", "torch at 256, preset"
AXES: Mapping[str, tuple[str, ...]] = {
    READ: ("8", "16", "32"),
    ENCODE: ("1", "2", "4", "8"),
    DECODE: ("1", "2", "4", "8", "16"),
    SIZE: ("256", "512", "1024"),
    PRESET: ("vit_mini", "vit_b", "vit_l"),
}
"""Axis -> its values."""
NOTHING = "nothing"
"""The value of an axis for which a process only prepares and does no work."""
WINDOW = (-20.0, 100.0)
Work = Callable[[], object]


def measure(
    rounds: int = 3,
    largest: int = 1024,
    backend: str = "auto",
    points: int = 5,
    budget: Budget = UNLIMITED,
) -> Record:
    """Seconds and MB at each size of each axis; ``subject`` is the axis, ``quantity`` its value.

    Uses the first ``points`` values of each axis, and image sizes up to ``largest``.
    """
    series = []
    with tempfile.TemporaryDirectory() as scratch:
        studies = _studies(Path(scratch))
        for number, (axis, values) in enumerate(AXES.items()):
            kept = [each for each in values[:points] if axis != SIZE or int(each) <= largest]
            part = budget.part(1 / (len(AXES) - number))
            with ExitStack() as stack:
                work = _maker(axis, studies, backend, stack)
                works = {value: work(value) for value in kept}
                times = interleaved(works, 3 * rounds if axis == DECODE else rounds, budget=part)
            series += [Series(axis, value, "s", samples) for value, samples in times.items()]
            series += _peaks(axis, kept, studies, backend)
    settings = {"rounds": rounds, "backend": backend, "shortened": budget.shortened}
    return Record("scaling", tuple(series), settings, weights=of_shipped())


def _peaks(axis: str, values: list[str], studies: Path, backend: str) -> list[Series]:
    """Peak MB of each value, in a separate process, above that of one that only prepares."""
    once = [sys.executable, __file__, "--studies", str(studies), "--backend", backend, "--once"]
    _, floor = process([*once, axis, NOTHING])
    peaks = {value: process([*once, axis, value])[1] - floor for value in values}
    return [Series(axis + MEMORY, value, "MB", (max(mb, 0.0),)) for value, mb in peaks.items()]


def once(axis: str, value: str, studies: Path, backend: str) -> None:
    """One value of one axis, once, from start to end: the work of a separate process.

    The smallest value is run first, because one-time memory of a library or model is not growth.
    """
    with ExitStack() as stack:
        work = _maker(axis, studies, backend, stack)
        if axis != PRESET and axis != SIZE:
            work(AXES[axis][0])()
        if value != NOTHING:
            work(value)()


def _studies(folder: Path) -> Path:
    """A folder of DICOM files for each number of slices."""
    for count in AXES[READ]:
        write_dicom(generate_study(5, PhantomOptions(slices=int(count))), folder / count)
    return folder


def _maker(axis: str, studies: Path, backend: str, stack: ExitStack) -> Callable[[str], Work]:
    """A function that makes the work for a value of the axis."""
    if axis == READ:
        return lambda count: partial(read_study, studies / count)
    if axis in (SIZE, PRESET):
        return _in_torch if axis == PRESET else lambda side: _in_torch("vit_b", int(side))
    segmenter = stack.enter_context(Segmenter.from_bundle(None, backend))
    return partial(_encode if axis == ENCODE else _decode, segmenter)


def _encode(segmenter: Segmenter, batch: str) -> Work:
    size, count = segmenter.bundle.manifest.slice_size, int(batch)
    hu = np.random.default_rng(0).uniform(-20, 100, (count, 1, size, size)).astype(np.float32)
    window = np.tile(np.asarray(WINDOW, np.float32), (count, 1))
    return partial(segmenter.backend.encode, hu, window)


def _decode(segmenter: Segmenter, prompts: str) -> Work:
    size, count = segmenter.bundle.manifest.slice_size, int(prompts)
    encoded = segmenter.encode(np.zeros((size, size), np.float32))  # kept: encoded once
    asked = [Prompt(((100.0 + 9 * i, 200.0),), (FOREGROUND,)) for i in range(count)]
    return partial(segmenter.predict_batch, [encoded] * count, asked)


def _in_torch(name: str, image_size: int = 256) -> Work:
    """An encode in torch. Presets are compared at one size, which is not that of vit_mini."""
    import torch  # here, so that it does not count in the peaks of other axes' processes

    from samihs_training.network.model import SamihsModel
    from samihs_training.network.sam import build_sam, preset

    config = replace(preset(name), image_size=image_size)
    model = SamihsModel(build_sam(config), config).eval()
    hu, window = torch.zeros(1, 1, 512, 512), torch.tensor([WINDOW])

    def encode() -> object:
        with torch.inference_mode():
            return model.encode(hu, window)

    return encode


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1024, help="image size of ViT-B")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--once", nargs=2, metavar=("AXIS", "VALUE"), help="for its own processes")
    parser.add_argument("--studies", type=Path, help="for its own processes")
    options = parser.parse_args()
    if options.once:
        once(*options.once, options.studies, options.backend)
        return
    record = measure(options.rounds, options.largest, options.backend)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
