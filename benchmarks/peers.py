"""This project's runtime compared with segment-anything's own, with equal weights and threads.

    python benchmarks/peers.py [--model vit_b] [--rounds 5] [--batches 4,8]
        [--only "samihs fp32,SamPredictor eager fp32"]
        [--mobile-sam DIR] [--segment-anything-fast DIR]

Subjects: the exported graphs on ONNX Runtime (fp32, int8); ``SamPredictor`` in eager fp32, with its
encoder under bf16 autocast, or compiled; its eager encoder with segment-anything's own ONNX export
of the decoder; the transformers library's ``SamModel``; segment-anything-fast; and MobileSAM, as a
smaller model that might be used instead. The last two run from copies of their repositories, given
by an option or by the variables MOBILE_SAM and SEGMENT_ANYTHING_FAST. Subjects that are not
available are named in the result.

Each subject runs in its own process (``peers_worker.py``), in turn with the others: A B C A B C. A
click is timed from its coordinates to a mask at the slice's size. Weights are random: the cost of a
model does not depend on them. All subjects get the same pictures (``peers_inputs.py``). Files that
a subject needs are made before it starts: this project's graphs, the ONNX decoder, the weights
under the transformers library's names.
Before anything is timed, the logits of one click are compared with SamPredictor's, if it is among
the subjects: a subject that should compute the same in float32 (``EQUAL``, including this project's
fp32 graphs) but answers differently is not measured. The cold start is a process's first encode and
click, with everything loaded and compiled before them: one sample, since each process starts once.
A batch of slices is a loop if the subject takes one image at a time, as ``SamPredictor`` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import floors
import numpy as np
import peers_predictor
import peers_transformers
from peers_copies import COPIES
from peers_inputs import FRAMES, SIZE, write_random
from record import Record, Series, command_line
from stopwatch import UNLIMITED, Budget, seconds
from tables import EAGER
from trial_bundle import TINY, manifest_of

from samihs_export.float_types import Precision
from samihs_export.graphs.families import write_graphs
from samihs_runtime.backends.cpu_threads import THREADS, cpu_threads
from samihs_runtime.bundle import Bundle, WindowRule, write_bundle
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, preset

WINDOW = WindowRule("fixed", -20.0, 100.0)
OURS = ("samihs fp32", "samihs int8")
AUTOCAST, COMPILED = "SamPredictor bf16 autocast", "SamPredictor compiled"
DECODER, TRANSFORMERS = "segment-anything ONNX decoder", "transformers SamModel"
RIVALS = (
    EAGER,
    AUTOCAST,
    COMPILED,
    DECODER,
    TRANSFORMERS,
    "segment-anything-fast",
    "MobileSAM",
)
EQUAL = (OURS[0], COMPILED, TRANSFORMERS)
"""Same weights, pictures and type as SamPredictor: their logits must agree."""
OTHERWISE = (DECODER, "MobileSAM")
"""Not compared: the former always answers a single click with the best of three masks
(``SamOnnxModel.select_masks``); the latter has its own weights."""
SAME_ENCODE = {
    EAGER: "fp32",
    AUTOCAST: "bf16",
    COMPILED: "fp32",
    DECODER: "fp32",
    TRANSFORMERS: "fp32",
    "segment-anything-fast": "bf16",
}
"""Subjects whose encode is segment-anything's own arithmetic -> the type of its products."""
SAME_CLICK = (EAGER, AUTOCAST, COMPILED)
"""Subjects whose click is segment-anything's own in float32: ``SamPredictor.predict``, never under
autocast. For this project's, the operations of its graphs are counted; the others have no count,
and therefore no floor."""
MOST_DIFFERENT = 1e-3
"""Limit for the logits, relative to the largest: float32 in another order of summation (gates.py).
"""
CLICKS = {1: 20, 2: 10, 8: 5}
"""Number of prompts -> runs per round."""
USUAL = (*OURS, EAGER, AUTOCAST, DECODER)
"""Subjects for which `make bench` has time: compiling alone takes a minute."""


def equal_threads() -> dict[str, str]:
    """Environment in which torch takes as many threads as this project's runtime.

    OMP_NUM_THREADS, which many servers set, would otherwise bind torch alone, and a container's
    quota the runtime alone.
    """
    count = str(cpu_threads())
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, THREADS: count}


class Worker:
    """The process of a subject, which handles one request at a time."""

    def __init__(self, folder: Path, subject: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("peers_worker.py"))]
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, str(folder), subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,  # a file: a full pipe would block the process
            text=True,
            env=os.environ | equal_threads(),
        )

    def ask(self, what: str) -> Any:
        """The answer to one request; RuntimeError with the last line of the process's stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.complaints.seek(0)
            raise RuntimeError((self.complaints.read().strip().splitlines() or ["it ended"])[-1])
        return json.loads(line)

    def end(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self.process.communicate()  # closes its pipes, too
        self.complaints.close()


def measure(
    model: str = "vit_b",
    rounds: int = 5,
    image_size: int = 0,
    subjects: Sequence[str] = (*OURS, *RIVALS),
    batches: Sequence[int] = (),
    budget: Budget = UNLIMITED,
) -> Record:
    """Cold start, encode, click and peak memory of every subject."""
    config = config_named(model)
    config = replace(config, image_size=image_size or config.image_size)
    if config.pyramid_width:
        raise SystemExit(f"{model} is not segment-anything's own model: its SamPredictor has none")
    if config.image_size not in FRAMES:
        sides = " or ".join(map(str, FRAMES))
        raise SystemExit(f"image size {config.image_size}: answers can be compared at {sides} only")
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="samihs-peers-") as scratch:
        folder = Path(scratch)
        bundles = prepare(folder, config, [each for each in OURS if each in subjects])
        prepare_rivals(folder, subjects)
        with _started(folder, subjects, refused) as (workers, cold):
            agreed = _agreed(folder, workers, refused)
            series = [Series(name, "cold start", "s", (cold[name],)) for name in workers]
            series += agreed
            series += _timed(workers, refused, rounds, budget)
            series += _asked(workers, refused, {"memory": ("peak memory", "MB")})
            larger = {f"batch {n}": (f"encode, batch {n}", "s") for n in batches}
            series += _asked(workers, refused, larger)  # after the peak, which they would raise
        work = _work(config, bundles)
    series += floors.rates(cpu_threads(), min(rounds, 5))
    name = f"peers-{model}" + (f"-{image_size}" if image_size else "")
    settings = {**_settings(config, rounds, budget), "work": work}
    return Record(name, tuple(series), settings, refused)


def _settings(config: SamConfig, rounds: int, budget: Budget) -> dict[str, Any]:
    return {
        "model": config.name,
        "image_size": config.image_size,
        "slice_size": SIZE,
        "rounds": rounds,
        "threads": cpu_threads(),
        "weights": "random, seed 0",
        "reference": EAGER,
        "shortened": budget.shortened,
    }


def _work(config: SamConfig, bundles: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Quantity -> subject -> the minimum work, and its type."""
    theirs = floors.work_of(config, SIZE)
    encode = {name: {**theirs["encode"], "type": kind} for name, kind in SAME_ENCODE.items()}
    click = dict.fromkeys(SAME_CLICK, theirs["click"])
    for name, bundle in bundles.items():
        own = floors.work_of_bundle(Bundle.open(bundle))
        click[name] = own["click"]
        if "encode" in own:
            encode[name] = own["encode"]
    return {"encode": encode, "click, 1 prompt": click}


def config_named(model: str) -> SamConfig:
    """A preset, or :data:`trial_bundle.TINY`."""
    return TINY if model == TINY.name else preset(model)


def prepare(folder: Path, config: SamConfig, ours: Sequence[str] = OURS) -> dict[str, Path]:
    """Write the same weights as a state dict and, for each of ``ours``, as a bundle of ONNX graphs;
    returns the bundles by name."""
    bundles = {}
    model = SamihsModel(write_random(folder, config), config).eval()
    files = folder / "files"
    for name in ours:
        precision: Precision = "int8" if name.endswith("int8") else "fp32"
        entry = write_graphs(files, model, "onnx", precision, SIZE, dict)
        manifest = manifest_of(config, SIZE, WINDOW, [entry])
        bundles[name] = folder / f"bundle-{entry.precision}"
        write_bundle(files, manifest, bundles[name])
    return bundles


def prepare_rivals(folder: Path, subjects: Sequence[str]) -> None:
    """Write what some rivals need besides the state dict; they read it at start-up, as ours reads a
    bundle."""
    if DECODER in subjects:
        peers_predictor.write_decoder(folder)
    if TRANSFORMERS in subjects:
        peers_transformers.write_weights(folder)


@contextmanager
def _started(
    folder: Path, subjects: Sequence[str], refused: dict[str, str]
) -> Iterator[tuple[dict[str, Worker], dict[str, float]]]:
    """A warm worker for each subject, started one after the other, and the seconds it took."""
    workers: dict[str, Worker] = {}
    cold: dict[str, float] = {}
    started: list[Worker] = []
    try:
        for subject in subjects:
            taken = seconds(lambda subject=subject: started.append(Worker(folder, subject)))
            try:
                taken += seconds(lambda: [started[-1].ask(what) for what in ("encode", "click 1")])
            except RuntimeError as error:
                refused[subject] = str(error)
            else:
                workers[subject], cold[subject] = started[-1], taken
                print(f"{subject}: ready after {taken:.1f} s", file=sys.stderr, flush=True)
        yield workers, cold
    finally:
        for worker in started:
            worker.end()


def _agreed(folder: Path, workers: dict[str, Worker], refused: dict[str, str]) -> list[Series]:
    """Largest difference of each subject's logits from SamPredictor's; drops subjects in ``EQUAL``
    that differ."""
    answers = {}
    for number, (name, worker) in enumerate(list(workers.items())):
        path = folder / f"logits-{number}.npy"
        try:
            worker.ask(f"logits {path}")
        except RuntimeError as error:
            refused[name] = f"logits: {error}"
            del workers[name]
        else:
            answers[name] = np.load(path)
    reference = answers.get(EAGER)
    if reference is None:
        return []
    found = {
        name: relative_difference(each, reference)
        for name, each in answers.items()
        if name != EAGER and name not in OTHERWISE
    }
    for name in EQUAL:
        if name in found and not found[name] <= MOST_DIFFERENT:  # true for NaN, too
            refused[name] = f"its logits differ from SamPredictor's by {found[name]:.2g}, relative"
            del workers[name]
    return [
        Series(name, "logits, relative difference", "", (each,)) for name, each in found.items()
    ]


def relative_difference(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference, relative to the reference's largest absolute value.

    Infinite if the shapes differ.
    """
    if value.shape != reference.shape:
        return float("inf")
    exact = reference.astype(np.float64)
    return float(np.abs(value - exact).max() / max(np.abs(exact).max(), 1e-30))


def _timed(
    workers: dict[str, Worker], refused: dict[str, str], rounds: int, budget: Budget
) -> list[Series]:
    """Encodes and clicks, round by round."""
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in budget.rounds(rounds, "rounds"):
        for name, worker in list(workers.items()):
            try:
                taken.setdefault((name, "encode"), []).append(worker.ask("encode"))
                for count, times in CLICKS.items():
                    samples = [worker.ask(f"click {count}") for _ in range(times)]
                    what = f"click, {count} prompt{'s' if count > 1 else ''}"
                    taken.setdefault((name, what), []).extend(samples)
            except RuntimeError as error:
                refused[name] = f"round {turn}: {error}"
                del workers[name]
    return [Series(name, what, "s", tuple(each)) for (name, what), each in taken.items()]


def _asked(
    workers: dict[str, Worker], refused: dict[str, str], what: dict[str, tuple[str, str]]
) -> list[Series]:
    """One answer of each worker to each request; ``what``: request -> its quantity and unit."""
    series = []
    for request, (quantity, unit) in what.items():
        for name, worker in list(workers.items()):
            try:
                series.append(Series(name, quantity, unit, (worker.ask(request),)))
            except RuntimeError as error:
                refused[name] = f"{quantity}: {error}"
                del workers[name]
    return series


def read_subjects(given: str | None) -> tuple[str, ...]:
    """``samihs fp32,MobileSAM`` as subjects, all by default; exits if one is unknown."""
    known = (*OURS, *RIVALS)
    chosen = tuple(each.strip() for each in given.split(",")) if given else known
    unknown = [each for each in chosen if each not in known]
    if unknown:
        sys.exit(f"error: no subject {unknown[0]!r}: there are {', '.join(known)}")
    return chosen


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="vit_b", help="vit_b, vit_l, vit_h; tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=0, help="0: the preset's own")
    parser.add_argument("--only", help="some of the subjects, with commas between")
    parser.add_argument("--batches", default="", help="also of several slices: 4,8")
    for package, variable in COPIES.items():
        option = f"--{package.replace('_', '-')}"
        parser.add_argument(option, dest=variable, help="folder of a copy of its repository")
    options = parser.parse_args()
    os.environ.update({v: getattr(options, v) for v in COPIES.values() if getattr(options, v)})
    batches = [int(each) for each in options.batches.split(",") if each]
    subjects = read_subjects(options.only)
    record = measure(options.model, options.rounds, options.image_size, subjects, batches)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
