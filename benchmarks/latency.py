"""Latency and memory of the shipped bundle: cold command, encode, click, a second click.

    python benchmarks/latency.py [--bundle DIR] [--backend cpu] [--runs 5] [--require-gpu]

One JSON file in ``benchmarks/results/`` with machine, versions, command and every raw sample; a
table on the terminal. The cold command is timed as a whole process, by the operating system's own
account of it, beside a Python that only imports numpy: the floor on this machine, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.propagation import deepest_point
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("samihs", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx-cu13", "pydicom")


def main() -> None:
    """Measure, print, write."""
    options = _options()
    gpus = probe_gpus().devices
    if options.require_gpu and not gpus:
        sys.exit("error: no NVIDIA GPU can be used here: `make bench` measures the CPU")
    study = generate_study(11, PhantomOptions(slices=3, bleeds=(BleedType.INTRAPARENCHYMAL,)))
    z = int(np.argmax((study.bleeds > 0).sum((1, 2))))
    x, y = deepest_point(study.bleeds[z] > 0)
    with tempfile.TemporaryDirectory() as scratch:
        write_dicom(study, Path(scratch) / "study")
        slice_file = sorted((Path(scratch) / "study").glob("*.dcm"))[z]
        samples = _cold(options, slice_file, f"{x:g},{y:g}", Path(scratch) / "out")
    samples |= _warm(options, study.hu[z], Prompt(((x, y),), (FOREGROUND,)))
    record = {
        "benchmark": "latency",
        "machine": _machine(gpus),
        "versions": _versions(),
        "command": " ".join(["python", *sys.argv]),
        "samples": samples,
    }
    _print(samples)
    RESULTS.mkdir(exist_ok=True)
    where = f"{'gpu' if gpus else 'cpu'}-latency-{datetime.now(UTC):%Y-%m-%d}.json"
    (RESULTS / where).write_text(json.dumps(record, indent=1) + "\n")
    print(f"written  {RESULTS / where}")


def _cold(
    options: argparse.Namespace, slice_file: Path, point: str, out: Path
) -> dict[str, list[float]]:
    """Whole processes, the command and the floor in turn: A B A B."""
    command = [sys.executable, "-m", "samihs_runtime.cli", str(slice_file), "--point", point]
    command += ["--backend", options.backend, "--out", str(out), "--overwrite"]
    command += ["--bundle", str(options.bundle)] if options.bundle else []
    samples: dict[str, list[float]] = {
        "cold samihs-infer, s": [],
        "cold samihs-infer, peak MB": [],
        "python + numpy, s": [],
    }
    _process(command)  # disk cache and bytecode, as on any machine that has run it once
    for _ in range(options.runs):
        seconds, peak = _process(command)
        samples["cold samihs-infer, s"].append(seconds)
        samples["cold samihs-infer, peak MB"].append(peak)
        samples["python + numpy, s"].append(_process([sys.executable, "-c", "import numpy"])[0])
    return samples


def _process(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of one child process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / 1024  # Linux counts KiB


def _warm(options: argparse.Namespace, hu: np.ndarray, prompt: Prompt) -> dict[str, list[float]]:
    """Within one process: encode slices that differ, then click again and again on one."""
    with Segmenter.from_bundle(options.bundle, options.backend) as segmenter:
        encoded = segmenter.encode(hu)
        segmenter.predict(encoded, prompt)
        encode = [
            _timed(lambda shift=shift: segmenter.encode(hu + np.int16(shift)))
            for shift in range(1, options.runs + 1)
        ]
        clicks = [_timed(lambda: segmenter.predict(encoded, prompt)) for _ in range(20)]
    return {"encode, s": encode, "second click, s": clicks}


def _timed(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def _print(samples: dict[str, list[float]]) -> None:
    table = Table("what", "min", "median", "max", "n")
    for name, values in samples.items():
        figures = (min(values), statistics.median(values), max(values))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures), str(len(values)))
    Console().print(table)


def _machine(gpus: Any) -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [str(gpu) for gpu in gpus],
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--require-gpu", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
