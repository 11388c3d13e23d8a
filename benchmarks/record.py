"""What a benchmark records: raw samples, and everything needed to reproduce them.

One schema for all: ``benchmarks/results/<benchmark>-<cpu or gpu>-<date>.json``. ``report.py`` makes
the report from these files alone, so nothing is computed here that can be computed there.

Among records of a benchmark with the same weights, the one with the most samples counts: a run that
was cut short, or had fewer studies or subjects, neither replaces a fuller one of the same day nor
takes its place in the report, which mentions it. To have the smaller one reported, remove the
fuller file. Among records with different weights, the newest counts, whatever its size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weights import same

from samihs_runtime.atomic_file import atomic_write

SCHEMA = 2
"""Schema 1 was different for each benchmark."""
RESULTS = Path(__file__).parent / "results"
DATED = re.compile(r"-\d{4}-\d\d-\d\d(-\d+-samples)?$")
"""The end of the stem of a record's file (:meth:`Record.write`)."""
PACKAGES = (
    "samihs", "numpy", "scipy", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx-cu13", "tensorrt",
    "cuda-bindings", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-rle", "torch", "segment-anything",
    "scikit-image", "monai", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Samples of one quantity of one subject."""

    subject: str
    """What was measured: a backend, a rival, a method."""
    quantity: str
    """Which quantity, with its settings: ``encode, batch 1``."""
    unit: str
    samples: tuple[float, ...]
    """In the order of the rounds: sample i of all subjects was taken in round i."""

    @property
    def median(self) -> float:
        """Median of the samples; NaN if there are none."""
        return statistics.median(self.samples) if self.samples else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; both are the median if there are fewer than two samples."""
        if len(self.samples) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    def quantile(self, share: float) -> float:
        """The sample below which a ``share`` of the samples lies."""
        ordered = sorted(self.samples)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True)
class Record:
    """One benchmark's result."""

    benchmark: str
    series: tuple[Series, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    not_measured: Mapping[str, str] = field(default_factory=dict)
    """Subject -> reason, for those that could not be measured."""
    command: str = field(default_factory=lambda: command_of(sys.argv))
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: str = field(default_factory=lambda: _commit())
    machine: Mapping[str, Any] = field(default_factory=lambda: machine())
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    weights: Mapping[str, str] = field(default_factory=dict)
    """Of the model that answered or was timed (``weights.py``); empty if none was trained."""

    @property
    def size(self) -> int:
        """Number of samples in all series."""
        return sum(len(each.samples) for each in self.series)

    def find(self, subject: str, quantity: str) -> Series | None:
        """The series of this subject and quantity, if any."""
        for each in self.series:
            if (each.subject, each.quantity) == (subject, quantity):
                return each
        return None

    def quantities(self) -> list[str]:
        """All, in order of appearance."""
        return list(dict.fromkeys(each.quantity for each in self.series))

    def beside(self, quantity: str) -> list[Series]:
        """The series of a quantity, of all subjects."""
        return [each for each in self.series if each.quantity == quantity]

    def write(self, folder: Path = RESULTS) -> Path:
        """Write the record, completely or not at all; returns the file.

        A record of the same day and weights is replaced, unless it has more samples or is of other
        weights; the new file's name then ends in its number of samples.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kind = "gpu" if self.machine.get("gpus") else "cpu"
        path = folder / f"{self.benchmark}-{kind}-{self.date[:10]}.json"
        there = read_record(path) if path.is_file() else None
        if there is not None and (there.size > self.size or not same(there.weights, self.weights)):
            path = path.with_stem(f"{path.stem}-{self.size}-samples")
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        atomic_write(path, json.dumps(content, indent=1) + "\n")
        return path


def read_record(path: Path) -> Record | None:
    """The record of a file; None if it has another schema."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw.pop("schema", None) != SCHEMA:
        return None
    series = tuple(Series(**{**each, "samples": tuple(each["samples"])}) for each in raw["series"])
    return Record(**{**raw, "series": series})


def ranked(paths: Iterable[Path]) -> dict[str, list[Record]]:
    """Benchmark, with cpu or gpu (``latency-cpu``) -> its records: those with the weights of the
    newest first; with equal weights those with the most samples first, and among those the newest.
    """
    found: dict[str, list[Record]] = {}
    for path in sorted(paths):
        record = read_record(path)
        if record is not None:
            found.setdefault(DATED.sub("", path.stem), []).append(record)
    return {name: _in_order(records) for name, records in found.items()}


def _in_order(records: Sequence[Record]) -> list[Record]:
    """By the date of the newest with the same weights, then by size, then by its own date."""

    def rank(record: Record) -> tuple[str, int, str]:
        newest = max(each.date for each in records if same(each.weights, record.weights))
        return newest, record.size, record.date

    return sorted(records, key=rank, reverse=True)


def ratios(subject: Sequence[float], reference: Sequence[float]) -> Series:
    """Reference over subject, round by round: how many times faster (or smaller) the subject is.

    Whatever slows the whole machine for a round slows both, and does not affect the ratio.
    """
    pairs = zip(subject, reference, strict=False)
    return Series("", "ratio", "x", tuple(other / own for own, other in pairs if own > 0))


def results_of(given: Path | None, brief: bool) -> Path:
    """The folder for results; a brief run, whose figures mean nothing, gets a temporary one."""
    if given is not None:
        return given
    return Path(tempfile.mkdtemp(prefix="samihs-brief-")) if brief else RESULTS


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark's options: described by its first line, with ``--results``."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    return parser


def command_of(arguments: Sequence[str]) -> str:
    """The command as typed at the repository's root; absolute paths are reduced to their names."""
    script, *rest = arguments
    named = [re.sub(r"(^|=)/(?:[^/]*/)*", r"\1.../", each) for each in rest]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *named])


def machine() -> dict[str, Any]:
    """What it ran on, without host or user name."""
    from samihs_runtime.backends.probe import probe_gpus

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "gpus": [str(each) for each in probe_gpus().devices],
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages that a figure may depend on."""
    from samihs_runtime.environment import installed

    return installed(PACKAGES)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit, and whether the code differs from it; changed results do not count."""
    known = _git("rev-parse", "--short", "HEAD")
    code = ("*.py", "*.toml", "*.onnx", "*.safetensors")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{known} and changes" if known and changed else known or "unknown"


def _git(*arguments: str) -> str:
    """Output of git in this repository; empty if there is no git."""
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
