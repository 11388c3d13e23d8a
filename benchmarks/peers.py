"""This project's runtime beside segment-anything's own, on the same weights and threads.

    python benchmarks/peers.py [--model vit_b] [--rounds 5]
        [--mobile-sam DIR] [--segment-anything-fast DIR]

Subjects: the exported graphs on ONNX Runtime (fp32, int8); ``SamPredictor`` in eager fp32, its
encoder under bf16 autocast or compiled; its eager encoder with segment-anything's own ONNX export
of the decoder; the transformers library's ``SamModel``; segment-anything-fast; and, as the smaller
model one might take instead, MobileSAM. The last two run from copies of their repositories, given
by an option or by the variables MOBILE_SAM and SEGMENT_ANYTHING_FAST. What cannot be had is named
in the result.

Each lives in a process of its own (``peers_worker.py``), which waits for the others' turns to end:
A B C A B C. A click goes from its coordinates to a mask at the slice's size. Weights are random:
what a model costs does not depend on them. Before anything is timed, the logits of one click are
held against SamPredictor's: an implementation in float32 that answers otherwise is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peers_copies import COPIES
from peers_inputs import SIZE, write_random
from record import Record, Series
from tables import EAGER
from trial_bundle import manifest_of

from samihs_export.families import write_graphs
from samihs_runtime.bundle import WindowRule, write_bundle
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, preset

WINDOW = WindowRule("fixed", -20.0, 100.0)
OURS = ("samihs fp32", "samihs int8")
RIVALS = (
    "SamPredictor eager fp32",
    "SamPredictor bf16 autocast",
    "SamPredictor compiled",
    "segment-anything ONNX decoder",
    "transformers SamModel",
    "segment-anything-fast",
    "MobileSAM",
)
EQUAL = ("transformers SamModel",)
"""The same weights, pictures and type as SamPredictor's: the logits must be the same."""
OTHERWISE = ("segment-anything ONNX decoder", "MobileSAM")
"""Not to be compared: one answers a single click with the best of three masks, whatever is asked
(``SamOnnxModel.select_masks``); the other has weights of its own."""
MOST_DIFFERENT = 1e-3
"""Of the logits, relative to the largest: float32 in another order of summation (gates.py)."""
CLICKS = (1, 2, 8)
CLICKS_PER_ROUND = 5


class Worker:
    """A subject's process, which does one thing when it is told to."""

    def __init__(self, folder: Path, subject: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("peers_worker.py"))]
        self.process = subprocess.Popen(
            [*command, str(folder), subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str) -> Any:
        """The answer to one request; RuntimeError with the last line of what it complained of."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, complaint = self.process.communicate()
            raise RuntimeError((complaint.strip().splitlines() or ["it ended"])[-1])
        return json.loads(line)


def measure(model: str = "vit_b", rounds: int = 5, image_size: int = 0) -> Record:
    """Encode and click of every subject, and its peak memory."""
    config = preset(model)
    config = replace(config, image_size=image_size or config.image_size)
    if config.pyramid_width:
        raise SystemExit(f"{model} is not segment-anything's own model: its SamPredictor has none")
    with tempfile.TemporaryDirectory(prefix="samihs-peers-") as scratch:
        folder = Path(scratch)
        prepare(folder, config)
        workers, refused = _started(folder)
        differences = _agreed(folder, workers, refused)
        taken: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds):
            _round(workers, refused, taken, turn)
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
        for worker in workers.values():
            worker.process.kill()
    series = [Series(name, what, "s", tuple(each)) for (name, what), each in taken.items()]
    series += [Series(name, "peak memory", "MB", (each,)) for name, each in memory.items()]
    series += [
        Series(name, "logits, relative difference", "", (each,))
        for name, each in differences.items()
    ]
    settings = {
        "model": model,
        "image_size": config.image_size,
        "slice_size": SIZE,
        "rounds": rounds,
        "threads": os.cpu_count(),
        "weights": "random, seed 0",
    }
    name = f"peers-{model}" + (f"-{image_size}" if image_size else "")
    return Record(name, tuple(series), settings, refused)


def prepare(folder: Path, config: SamConfig) -> None:
    """The same weights as a state dict and as a bundle of ONNX graphs."""
    model = SamihsModel(write_random(folder, config), config).eval()
    files = folder / "files"
    entries = [
        write_graphs(files, model, "onnx", precision, SIZE, dict) for precision in ("fp32", "int8")
    ]
    for entry in entries:
        manifest = manifest_of(config, SIZE, WINDOW, [entry])
        write_bundle(files, manifest, folder / f"bundle-{entry.precision}")


def _started(folder: Path) -> tuple[dict[str, Worker], dict[str, str]]:
    """A warm worker of each subject, one after the other: they share the cores."""
    workers, refused = {}, {}
    for subject in (*OURS, *RIVALS):
        worker = Worker(folder, subject)
        try:
            worker.ask("encode")
            worker.ask("click 1")
        except RuntimeError as error:
            refused[subject] = str(error)
        else:
            workers[subject] = worker
            print(f"{subject}: ready", file=sys.stderr)
    return workers, refused


def _agreed(folder: Path, workers: dict[str, Worker], refused: dict[str, str]) -> dict[str, float]:
    """Largest difference of each one's logits from SamPredictor's; ends who should not differ."""
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
        return {}
    found = {
        name: relative_difference(each, reference)
        for name, each in answers.items()
        if name != EAGER and name not in OTHERWISE
    }
    for name in EQUAL:
        if name in found and not found[name] <= MOST_DIFFERENT:  # so that NaN is none
            refused[name] = f"its logits differ from SamPredictor's by {found[name]:.2g}, relative"
            workers.pop(name).process.kill()
    return found


def relative_difference(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the reference's largest absolute value.

    Infinite where the shapes differ.
    """
    if value.shape != reference.shape:
        return float("inf")
    exact = reference.astype(np.float64)
    return float(np.abs(value - exact).max() / max(np.abs(exact).max(), 1e-30))


def _round(
    workers: dict[str, Worker],
    refused: dict[str, str],
    taken: dict[tuple[str, str], list[float]],
    turn: int,
) -> None:
    for name, worker in list(workers.items()):
        try:
            taken.setdefault((name, "encode"), []).append(worker.ask("encode"))
            for count in CLICKS:
                samples = [worker.ask(f"click {count}") for _ in range(CLICKS_PER_ROUND)]
                taken.setdefault((name, f"click, {count} prompts"), []).extend(samples)
        except RuntimeError as error:
            refused[name] = f"round {turn}: {error}"
            del workers[name]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit_b", help="a preset of segment-anything's own sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=0, help="0: the preset's own")
    for package, variable in COPIES.items():
        option = f"--{package.replace('_', '-')}"
        parser.add_argument(option, dest=variable, help="folder of a copy of its repository")
    options = parser.parse_args()
    os.environ.update({v: getattr(options, v) for v in COPIES.values() if getattr(options, v)})
    record = measure(options.model, options.rounds, options.image_size)
    print(f"written  {record.write()}")


if __name__ == "__main__":
    main()
