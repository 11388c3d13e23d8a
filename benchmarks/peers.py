"""This project's runtime beside segment-anything's own, on the same weights and threads.

    python benchmarks/peers.py [--model vit_b] [--rounds 5]

Subjects: the exported graphs on ONNX Runtime (fp32, int8); ``SamPredictor`` in eager fp32, under
bf16 autocast and with its encoder compiled; its eager encoder with segment-anything's own ONNX
export of the decoder. Each lives in a process of its own (``peers_worker.py``), which waits for the
others' turns to end: A B C A B C. A click goes from its coordinates to a mask at the slice's size.
Weights are random: what a model costs does not depend on them.
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

import torch
from record import Record, Series

from samihs_export.families import write_graphs
from samihs_runtime.bundle import Manifest, WindowRule, write_bundle
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam, preset

SIZE = 512
WINDOW = (-20.0, 100.0)
OURS = ("samihs fp32", "samihs int8")
RIVALS = (
    "SamPredictor eager fp32",
    "SamPredictor bf16 autocast",
    "SamPredictor compiled",
    "segment-anything ONNX decoder",
)
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
        taken: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds):
            _round(workers, refused, taken, turn)
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
        for worker in workers.values():
            worker.process.kill()
    series = [Series(name, what, "s", tuple(each)) for (name, what), each in taken.items()]
    series += [Series(name, "peak memory", "MB", (each,)) for name, each in memory.items()]
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
    torch.manual_seed(0)
    model = SamihsModel(build_sam(config), config).eval()
    torch.save(model.sam.state_dict(), folder / "weights.pt")
    (folder / "preset").write_text(f"{config.name} {config.image_size}")
    files = folder / "files"
    entries = [
        write_graphs(files, model, "onnx", precision, SIZE, dict) for precision in ("fp32", "int8")
    ]
    manifest = Manifest(
        name=f"benchmark-{config.name}", version="0", preset=config.name,
        intended_use="measuring speed", training_data="none: random weights", clinical_use=False,
        slice_size=SIZE, image_size=config.image_size, grid=config.grid,
        embedding_channels=config.embedding_channels, window=WindowRule("fixed", *WINDOW),
        score_threshold=0.5, plausible_hu=(10.0, 110.0), graphs=tuple(entries),
    )  # fmt: skip
    for entry in entries:
        chosen = replace(manifest, graphs=(entry,))
        write_bundle(files, chosen, folder / f"bundle-{entry.precision}")


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
    options = parser.parse_args()
    record = measure(options.model, options.rounds, options.image_size)
    print(f"written  {record.write()}")


if __name__ == "__main__":
    main()
