"""Everything that can run on this GPU, compared with the same weights.

    python benchmarks/gpu.py [--model vit_b] [--adapters FILE --base FILE] [--minutes 6]

Rows: the runtime's backends on the graphs that a bundle has for them (TensorRT or TensorRT-RTX at
each precision; ONNX Runtime CUDA in fp32, with CUDA graphs as ``cuda-graph``, which gives the
reason if ONNX Runtime refuses them, and without as ``cuda-plain``) and segment-anything in torch
(eager fp32, autocast fp16 and bf16, torch.compile bf16). Columns: cold start, encode at batch 1, 4
and 8, click end to end for 1, 2 and 8 prompts, 32 slices from a DICOM folder to all embeddings,
device memory (the increase on the card since before the process used it, including CUDA's context
and an allocator's spare blocks), and parity with eager fp32. In the report, encoding in 16 bits is
also compared with the minimum that the card's measured bf16 matrix rate and memory bandwidth allow.
Each row runs in its own process, one after the other. A row that cannot run, is not reached in
time, or is stopped when the time ends, gives that as the reason. Written to
``benchmarks/results/backends-<model>-<gpu>-gpu-<date>.json``.

``--device cpu --model tiny --brief`` runs the same code without a GPU, as a test; its figures mean
nothing. ``--brief`` writes to a temporary folder unless ``--out`` names one.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gpu_prepare import load_model, prepare
from gpu_work import CLICK_PROMPTS, ENCODE_BATCHES, Work
from record import Record, Series, results_of
from rich.console import Console
from rich.table import Table
from tables import MACHINE

from samihs_export.engines.tensorrt import choose_flavour
from samihs_export.float_types import Precision
from samihs_export.proof.cases import Answer
from samihs_export.proof.gates import gates_for
from samihs_export.proof.parity import compare
from samihs_runtime.backends.probe import GpuProbe, probe_gpus
from samihs_runtime.environment import installed, unserved_gpu
from samihs_runtime.errors import ExportError

HERE = Path(__file__).parent
REFERENCE = "eager fp32"
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
Figures = dict[str, Any]


def main() -> None:
    """Prepare, run each row, compare, print, write."""
    options = _options()
    probe = probe_gpus()
    if options.device == "cuda" and not probe.devices:
        sys.exit(f"error: no NVIDIA GPU can be used: {probe.reason}; `make bench` measures the CPU")
    deadline = time.monotonic() + 60 * options.minutes
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="samihs-bench-") as scratch:
        work = Work(Path(scratch))
        model = load_model(options.model, options.adapters, options.base)
        no_engines = _no_engines(probe) if options.device == "cuda" else ""
        precisions = PRECISIONS if options.device == "cuda" else ("fp32",)
        refused = prepare(
            work,
            model,
            () if no_engines else precisions,
            slice_size=options.slice_size,
            device=options.device,
            brief=options.brief,
            say=lambda step: console.print(f"{step} ..."),
        )
        rows: dict[str, Figures] = {}
        for name, command in _rows(options.device).items():
            if no_engines and name.startswith("tensorrt"):
                rows[name] = {"not_measured": no_engines}
                continue
            console.print(f"{name} ...")
            rows[name] = _run(work, name, command, deadline)
        _add_parity(work, rows, trained=options.adapters is not None)
    record = _record(options, model.config.name, probe, rows, refused)
    _print(rows, record)
    print(f"written  {record.write(results_of(options.out, options.brief))}")


def _no_engines(probe: GpuProbe) -> str:
    """Why the installed TensorRT cannot build for this GPU; empty if it can."""
    unserved = unserved_gpu(installed(), probe.devices[0].compute_capability)
    if unserved is not None:
        return f"{unserved.problem}; {unserved.mend}"
    try:
        choose_flavour()
    except ExportError as error:
        return str(error)
    return ""


def _rows(device: str) -> dict[str, list[str]]:
    """Row -> script and arguments. The reference first, then the most important rows."""
    if device == "cpu":
        ours, rivals = ["cpu fp32"], [REFERENCE, "autocast bf16"]
    else:
        ours = ["tensorrt fp16", "cuda-graph fp32", "tensorrt bf16", "tensorrt fp32"]
        ours.append("cuda-plain fp32")  # shows what the CUDA graphs gain
        rivals = [REFERENCE, "autocast bf16", "autocast fp16"]
    commands = {name: ["gpu_torch.py", name] for name in rivals[:1]}
    commands |= {name: ["gpu_runtime.py", *name.split()] for name in ours[:2]}
    commands |= {name: ["gpu_torch.py", name] for name in rivals[1:]}
    commands |= {name: ["gpu_runtime.py", *name.split()] for name in ours[2:]}
    if device == "cuda":  # last: compiling takes minutes, and would leave no time for others
        commands["compile bf16"] = ["gpu_torch.py", "compile bf16"]
    return commands


def _run(work: Work, name: str, command: list[str], deadline: float) -> Figures:
    left = deadline - time.monotonic()
    if left <= 0:
        return {"not_measured": "the time was used up; give more with --minutes"}
    script, *arguments = command
    line = [sys.executable, str(HERE / script), str(work.folder), *arguments]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return {"not_measured": "stopped when the time was used up; give more with --minutes"}
    if done.returncode or not work.figures(name).is_file():
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"not_measured": last}
    figures: Figures = json.loads(work.figures(name).read_text())
    return figures


def _add_parity(work: Work, rows: dict[str, Figures], trained: bool) -> None:
    """Compare each row's answers with those of fp32 torch, by the export's gates.

    With random weights the masks are not judged: their logits are near 0.
    """
    if "encode" not in rows[REFERENCE]:
        return
    reference = _answers(work, REFERENCE)
    for name, figures in rows.items():
        if name == REFERENCE or "encode" not in figures:
            continue
        precision = name.split()[1]
        result = compare(f"{name} against {REFERENCE}", reference, _answers(work, name))
        failed = result.failures(gates_for(precision, trained=trained))
        figures["parity"] = {**result.summary(), "within_gates": not failed, "failed": failed}


def _answers(work: Work, row: str) -> list[Answer]:
    with np.load(work.answers(row)) as kept:
        arrays = [kept[name] for name in ("logits", "mask", "score", "embedding")]
    return [
        Answer(logits, mask.astype(bool), float(score), embedding)
        for logits, mask, score, embedding in zip(*arrays, strict=True)
    ]


def _record(
    options: argparse.Namespace,
    model: str,
    probe: GpuProbe,
    rows: dict[str, Figures],
    refused: dict[str, str],
) -> Record:
    """The record, in the schema of all benchmarks: series of samples, and what was not measured."""
    card = _slug(probe, options.device)
    series = [each for name, figures in rows.items() for each in _series(name, figures)]
    measured = {name: figures for name, figures in rows.items() if "encode" in figures}
    return Record(
        f"backends-{model}-{card}",
        tuple(series),
        settings={
            "model": model,
            "weights": "given" if options.adapters else "random, seed 0",
            "slice_size": options.slice_size,
            "order": "rows one after the other, each in a process of its own",
            "reference": subject_of(REFERENCE),
            "work": _work(rows, options.slice_size),
            "runs_on": {name: figures["runs_on"] for name, figures in measured.items()},
            "parity": {name: each["parity"] for name, each in measured.items() if "parity" in each},
            "engines_refused": refused,
            "brief": options.brief,
        },
        not_measured={
            subject_of(name): figures["not_measured"]
            for name, figures in rows.items()
            if "not_measured" in figures
        },
    )


def subject_of(row: str) -> str:
    """A row's name in the report, where torch's rows are marked as such."""
    return f"torch {row}" if row.split()[0] in ("eager", "autocast", "compile") else row


def _series(row: str, figures: Figures) -> Iterator[Series]:
    """All samples of a row, and the card's rates, which the reference's process measured."""
    if "encode" not in figures:
        return
    name = subject_of(row)
    for batch, samples in figures["encode"].items():
        yield Series(name, f"encode, batch {batch}", "s", tuple(samples))
    for count, samples in figures["click"].items():
        plural = "s" * (count != "1")
        yield Series(name, f"click, {count} prompt{plural}", "s", tuple(samples))
    single = {
        ("cold start", "s"): figures.get("cold_start_s"),
        ("32 slices from DICOM", "s"): figures.get("series_s"),
        ("device memory", "MB"): figures.get("device_memory_mb"),
        (f"mask IoU to torch {REFERENCE}", ""): figures.get("parity", {}).get("mask_iou_mean"),
    }
    for (quantity, unit), value in single.items():
        if value is not None:
            yield Series(name, quantity, unit, (value,))
    for quantity, unit, key in (
        ("matrix rate, bf16", "GFLOP/s", "matrix_rate"),
        ("memory bandwidth", "GB/s", "bandwidth"),
    ):
        if key in figures:
            yield Series(MACHINE, quantity, unit, tuple(figures[key]))


def _work(rows: dict[str, Figures], size: int) -> dict[str, dict[str, Any]]:
    """The minimum that an encode must compute and move, for each row that computes in 16 bits.

    fp16 and bf16 have the same rate on these cards; that of fp32 is not measured. Bytes: the
    weights in 16 bits once, and the slices in fp32.
    """
    reference = rows[REFERENCE]
    if "encode_flop" not in reference:
        return {}
    halves = [subject_of(row) for row in rows if row.split()[1] in ("fp16", "bf16")]
    return {
        f"encode, batch {batch}": {
            subject: {
                "flop": batch * reference["encode_flop"],
                "bytes": 2 * reference["encoder_weights"] + 4 * batch * size * size,
                "type": "bf16",
            }
            for subject in halves
        }
        for batch in ENCODE_BATCHES
    }


def _print(rows: dict[str, Figures], record: Record) -> None:
    encode = [f"encode {batch}" for batch in ENCODE_BATCHES]
    clicks = [f"click {count}" for count in CLICK_PROMPTS]
    table = Table("row", "cold s", *encode, *clicks, "32 slices s", "MB", "parity")
    for name, figures in rows.items():
        if "encode" not in figures:
            table.add_row(name, "not measured")
            continue
        table.add_row(
            name,
            _number(figures.get("cold_start_s"), 2),
            *(_number(1e3 * median(figures["encode"][str(b)]), 2) for b in ENCODE_BATCHES),
            *(_quantiles(figures["click"][str(n)]) for n in CLICK_PROMPTS),
            _number(figures.get("series_s"), 2),
            _number(figures.get("device_memory_mb"), 0),
            _parity(figures.get("parity")),
        )
    console = Console(width=160)
    console.print(table)
    console.print("encode: p50 ms; click: p50 / p95 / p99 ms, host click in, host mask out")
    for name, why in record.not_measured.items():
        console.print(f"{name}: not measured: {why}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _quantiles(samples: Sequence[float]) -> str:
    return " / ".join(f"{1e3 * each:.2f}" for each in np.percentile(samples, (50, 95, 99)))


def _parity(parity: Figures | None) -> str:
    if parity is None:
        return ""
    words = "holds" if parity["within_gates"] else "FAILS"
    return f"{words}, IoU {parity['mask_iou_mean']:.4f}"


def _slug(probe: GpuProbe, device: str) -> str:
    name = probe.devices[0].name if device == "cuda" else "no-gpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_b", help="a preset, with random weights")
    parser.add_argument("--adapters", type=Path, help="trained adapters, with --base")
    parser.add_argument("--base", type=Path, help="what they were trained on")
    parser.add_argument("--slice-size", type=int, default=512)
    parser.add_argument("--minutes", type=float, default=6.0, help="then what runs is stopped")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    brief = "a few runs each, for tests: into a temporary folder unless --out names one"
    parser.add_argument("--brief", action="store_true", help=brief)
    parser.add_argument("--out", type=Path, help="folder of the result")
    options = parser.parse_args(arguments)
    if (options.adapters is None) != (options.base is None):
        parser.error("--adapters and --base belong together: give both, or neither")
    return options


if __name__ == "__main__":
    main()
