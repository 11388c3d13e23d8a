"""The latency of a bundle as users experience it: a cold command, a folder, an encode, clicks.

    python benchmarks/latency.py [--bundle DIR | --model vit_b] [--backend auto] [--runs 5]

Cold commands are timed as whole processes, in the same rounds as a Python that only imports numpy,
which is the floor on this machine. The time of a cold command outside reading and encoding is the
wall time minus those two stages of its own report. Imported packages are listed with the time of
their own modules, some of which overlaps with other work. Warm figures are from a single process;
the rates of this machine (``floors.py``) are recorded with them, and the report derives their
floors.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import floors
import numpy as np
import peers
from imports import imported
from record import Record, Series, command_line
from stopwatch import UNLIMITED, Budget, interleaved, process, seconds
from weights import of_bundle

from samihs_runtime.backends.cpu_threads import cpu_threads
from samihs_runtime.bundle import Bundle
from samihs_runtime.interior import deepest_point
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom

SLICES = 32
BATCHES = (1, 4, 8)
PROMPTS = (1, 2, 8)
CLICKS = 200
"""For each number of prompts: a 99th percentile needs hundreds."""
INFER, FLOOR = "samihs-infer", "python + numpy"
WHOLE = f"cold, folder of {SLICES}"
ONE_SLICE = f"{WHOLE}, --no-propagation"
OUTSIDE = ", outside reading and encoding"


@dataclass(frozen=True, eq=False)
class Given:
    """What is measured, and its input."""

    folder: Path
    """DICOM files of one study."""
    hu: np.ndarray
    """[rows, columns]: the study's clicked slice."""
    index: int
    """Index of that slice, the one with the most blood."""
    click: tuple[float, float]
    bundle: Path | None
    backend: str

    @property
    def prompt(self) -> Prompt:
        """The click as a prompt."""
        return Prompt((self.click,), (FOREGROUND,))


def measure(
    bundle: Path | None = None,
    backend: str = "auto",
    runs: int = 5,
    clicks: int = CLICKS,
    budget: Budget = UNLIMITED,
) -> Record:
    """All figures of one bundle on one backend."""
    threads = cpu_threads()
    with tempfile.TemporaryDirectory() as scratch:
        given = _given(Path(scratch) / "study", bundle, backend)
        series, out = floors.rates(threads, min(runs, 5)), Path(scratch) / "out"
        cold, stages = _cold(given, out, runs, budget.part(0.7))
        imports = {ONE_SLICE: imported(_commands(given, out)[ONE_SLICE][1])}
        warm, work, weights = _warm(given, runs, clicks, budget)
    settings = {
        "slices": SLICES, "backend": backend, "runs": runs, "threads": threads, "work": work,
        "stages_s": stages, "imports_ms": imports, "shortened": budget.shortened,
    }  # fmt: skip
    return Record(_name(bundle), (*series, *cold, *warm), settings, weights=weights)


def _name(bundle: Path | None) -> str:
    """Name of the record, so that figures of another bundle do not replace the shipped one's."""
    return "latency" if bundle is None else f"latency-{Bundle.open(bundle).manifest.preset}"


def _given(folder: Path, bundle: Path | None, backend: str) -> Given:
    study = generate_study(11, PhantomOptions(slices=SLICES, bleeds=(BleedType.INTRAPARENCHYMAL,)))
    write_dicom(study, folder)
    index = int(np.argmax((study.bleeds > 0).sum((1, 2))))
    click = deepest_point(study.bleeds[index] > 0)
    return Given(folder, study.hu[index], index, click, bundle, backend)


def _cold(
    given: Given, out: Path, runs: int, budget: Budget
) -> tuple[list[Series], dict[str, dict[str, float]]]:
    """Whole processes, in turn: one slice, the whole folder, and the floor.

    Also returns the median seconds of the stages in each command's own report.
    """
    commands = _commands(given, out)
    report = out / "report.json"
    for _, command in commands.values():
        process(command)  # bytecode and disk cache, as on any machine that has run it once
    taken: dict[tuple[str, str, str], list[float]] = {}
    told: dict[str, list[dict[str, float]]] = {}

    def note(subject: str, quantity: str, unit: str, value: float) -> None:
        taken.setdefault((subject, quantity, unit), []).append(value)

    for _ in budget.rounds(runs, "rounds of cold commands"):
        for quantity, (subject, command) in commands.items():
            report.unlink(missing_ok=True)
            wall, peak = process(command)
            note(subject, quantity, "s", wall)
            note(subject, f"{quantity}, peak memory", "MB", peak)
            if report.is_file():
                stages = json.loads(report.read_text(encoding="utf-8"))["seconds"]
                told.setdefault(quantity, []).append(stages)
                note(subject, f"{quantity}{OUTSIDE}", "s", wall - stages["load"] - stages["encode"])
    medians = {
        quantity: {
            name: statistics.median(each.get(name, 0.0) for each in reports) for name in reports[0]
        }
        for quantity, reports in told.items()
    }
    return [Series(*key, tuple(samples)) for key, samples in taken.items()], medians


def _commands(given: Given, out: Path) -> dict[str, tuple[str, list[str]]]:
    """Quantity -> subject and command."""
    x, y = given.click
    ours = f"{INFER}, {'shipped' if given.bundle is None else 'given'} bundle"
    common = ["--backend", given.backend, "--overwrite", "--out", str(out)]
    common += ["--bundle", str(given.bundle)] if given.bundle else []
    infer = [sys.executable, "-m", "samihs_runtime.cli"]
    one = sorted(given.folder.glob("*.dcm"))[given.index]
    whole = [*infer, str(given.folder), "--point", f"{x:g},{y:g},{given.index}", *common]
    return {
        "cold, one slice": (ours, [*infer, str(one), "--point", f"{x:g},{y:g}", *common]),
        WHOLE: (ours, whole),
        ONE_SLICE: (ours, [*whole, "--no-propagation"]),
        "cold, --help": (ours, [*infer, "--help"]),
        "cold": (FLOOR, [sys.executable, "-c", "import numpy"]),
    }


def _warm(
    given: Given, runs: int, clicks: int, budget: Budget
) -> tuple[list[Series], dict[str, Any], dict[str, str]]:
    """Within one process: load, encode, click, first mask of a folder, all its embeddings.

    Also returns the work of an encode and a click, and the hashes of the weights.
    """
    taken = interleaved({"load the model": partial(_load, given)}, runs, budget=budget.part(0.2))
    with Segmenter.from_bundle(given.bundle, given.backend) as segmenter:
        subject, bundle = segmenter.backend.description, segmenter.bundle
        works = {"read a folder": lambda: read_study(given.folder), **_encodes(segmenter, given)}
        taken |= interleaved(works, 2 * runs, budget=budget.part(0.4))
        taken |= interleaved(_clicks(segmenter, given), clicks, budget=budget.part(0.6))
        first, rest = [], []
        for _ in budget.rounds(runs, "warm folders"):
            segmenter.encoder.cache.clear()
            first.append(seconds(lambda: _first_mask(segmenter, given)))
            segmenter.encoder.cache.clear()
            rest.append(seconds(lambda: _all_embeddings(segmenter, given.folder)))
    taken |= {
        f"folder of {SLICES} to first mask": tuple(first),
        f"folder of {SLICES} to last embedding": tuple(rest),
    }
    series = [Series(subject, quantity, "s", samples) for quantity, samples in taken.items()]
    measured = {"encode": "encode, batch 1", "click": "click, 1 prompt"}
    counted = floors.work_of_bundle(bundle).items()
    work = {measured[part]: {subject: each} for part, each in counted}
    return series, work, of_bundle(bundle)


def _load(given: Given) -> None:
    """Verify the bundle and make both graphs ready."""
    with Segmenter.from_bundle(given.bundle, given.backend) as segmenter:
        segmenter.load()


def _encodes(segmenter: Segmenter, given: Given) -> dict[str, Callable[[], object]]:
    """Calls to the backend, bypassing the cache: a new slice each time would be timed, too."""
    size = segmenter.bundle.manifest.slice_size
    hu = np.random.default_rng(0).uniform(-20, 100, (max(BATCHES), 1, size, size))
    window = np.tile(np.asarray((-20.0, 100.0), np.float32), (max(BATCHES), 1))
    backend = segmenter.backend
    return {
        f"encode, batch {n}": partial(backend.encode, hu[:n].astype(np.float32), window[:n])
        for n in BATCHES
    }


def _clicks(segmenter: Segmenter, given: Given) -> dict[str, Callable[[], object]]:
    """Clicks from coordinates to masks at the slice's size; several prompts form a batch."""
    encoded, (x, y) = segmenter.encode(given.hu), given.click
    prompts = [Prompt(((x + i, y),), (FOREGROUND,)) for i in range(max(PROMPTS))]
    return {
        f"click, {n} prompt{'s' if n > 1 else ''}": partial(
            segmenter.predict_batch, [encoded] * n, prompts[:n]
        )
        for n in PROMPTS
    }


def _first_mask(segmenter: Segmenter, given: Given) -> None:
    series = read_study(given.folder)
    segmenter.predict(segmenter.encode(series.hu[given.index]), given.prompt)


def _all_embeddings(segmenter: Segmenter, folder: Path) -> None:
    with segmenter.open(read_study(folder)) as session:
        session.wait()


@contextmanager
def random_bundle(model: str) -> Iterator[Path]:
    """A bundle of this preset with random weights, on which its cost does not depend."""
    with tempfile.TemporaryDirectory() as scratch:
        fp32 = peers.OURS[0]
        yield peers.prepare(Path(scratch), peers.config_named(model), (fp32,))[fp32]


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--bundle", type=Path)
    given.add_argument("--model", help="a preset, with random weights: vit_b")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=CLICKS, help="of each number of prompts")
    options = parser.parse_args()
    made = random_bundle(options.model) if options.model else nullcontext(options.bundle)
    with made as bundle:
        record = measure(bundle, options.backend, options.runs, options.clicks)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
