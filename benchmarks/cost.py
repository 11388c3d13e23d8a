"""What it costs to have SAMIHS: disk, installation, start-up.

    python benchmarks/cost.py [--runs 5] [--install]

Start-up is a whole process, ``--help`` of each command, beside a Python that does nothing, in the
same rounds. ``--install`` also builds the wheel and installs each extra into an environment of its
own (from the package index or its cache: minutes).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from record import Record, Series
from stopwatch import process, seconds

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "samihs-infer": "samihs_runtime.cli",
    "samihs-doctor": "samihs_runtime.doctor",
    "samihs-phantom": "samihs_training.data.phantom.cli",
    "samihs-train": "samihs_training.cli",
    "samihs-evaluate": "samihs_training.evaluate",
    "samihs-export": "samihs_export.cli",
}
EXTRAS = ("", "cpu", "train")
"""What installs without a GPU's libraries."""


def measure(runs: int = 5, install: bool = False) -> Record:
    """Start-up of each command, and with ``install`` size and time of each extra."""
    works = {name: [sys.executable, "-m", module, "--help"] for name, module in COMMANDS.items()}
    works["python"] = [sys.executable, "-c", "pass"]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for command in works.values():
        process(command)
    for _ in range(runs):
        for name, command in works.items():
            taken[name].append(process(command))
    series = []
    for name, pairs in taken.items():
        series.append(Series(name, "start-up", "s", tuple(wall for wall, _ in pairs)))
        series.append(Series(name, "start-up, peak memory", "MB", tuple(mb for _, mb in pairs)))
    if install:
        series += _installed()
    return Record("cost", tuple(series), {"runs": runs})


def _installed() -> list[Series]:
    """The wheel, and what each extra puts on the disk of an empty environment."""
    series = []
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "-w", scratch, str(ROOT)], check=True)
        wheel = next(Path(scratch).glob("samihs-*.whl"))
        series.append(Series("wheel", "size", "MB", (wheel.stat().st_size / 1e6,)))
        for extra in EXTRAS:
            place = Path(scratch) / f"venv-{extra or 'base'}"
            venv.create(place, with_pip=True)
            before = _size_mb(place)
            wanted = f"{wheel}[{extra}]" if extra else str(wheel)
            into = [str(place / "bin" / "python"), *pip[1:], "install", wanted]
            taken = seconds(lambda into=into: subprocess.run(into, check=True))
            name = f"samihs[{extra}]" if extra else "samihs"
            series.append(Series(name, "installation", "s", (taken,)))
            series.append(Series(name, "size on disk", "MB", (_size_mb(place) - before,)))
    return series


def _size_mb(folder: Path) -> float:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / 1e6


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    print(f"written  {measure(options.runs, options.install).write()}")


if __name__ == "__main__":
    main()
