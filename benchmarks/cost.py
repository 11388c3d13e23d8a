"""The cost of having SAMIHS installed: disk, installation, start-up.

    python benchmarks/cost.py [--runs 5] [--install]

Start-up is timed as a whole process, ``--help`` of each command, in the same rounds as a Python
that does nothing; the imports that took longest, as measured by Python itself, are recorded with
it. ``--install`` also builds the wheel and installs each extra into an environment of its own (from
the package index or its cache: takes minutes, and gigabytes of disk meanwhile). Extras that cannot
be installed are named.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from imports import imported
from record import Record, Series, command_line
from stopwatch import UNLIMITED, Budget, processes, seconds

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "samihs-infer": "samihs_runtime.cli",
    "samihs-doctor": "samihs_runtime.doctor",
    "samihs-phantom": "samihs_training.data.phantom.cli",
    "samihs-train": "samihs_training.cli",
    "samihs-evaluate": "samihs_training.evaluation.cli",
    "samihs-export": "samihs_export.cli",
}
EXTRAS = ("", "cpu", "train", "export", "dev", "gpu", "tensorrt", "pycuda")
"""All of ``pyproject.toml``: none needs a GPU to be installed."""
FLOOR = "python"
"""What start-up is compared with: a Python that does nothing."""


def measure(runs: int = 5, install: bool = False, budget: Budget = UNLIMITED) -> Record:
    """Start-up of each command, and with ``install`` size and time of each extra."""
    works = {name: [sys.executable, "-m", module, "--help"] for name, module in COMMANDS.items()}
    works[FLOOR] = [sys.executable, "-c", "pass"]
    series = []
    for name, pairs in processes(works, runs, budget).items():
        series.append(Series(name, "start-up", "s", tuple(wall for wall, _ in pairs)))
        series.append(Series(name, "start-up, peak memory", "MB", tuple(mb for _, mb in pairs)))
    imports = {name: imported(works[name]) for name in COMMANDS}
    settings = {"runs": runs, "imports_ms": imports, "shortened": budget.shortened}
    settings |= {"reference": FLOOR}
    refused: dict[str, str] = {}
    if install:
        series += _installed(refused)
    return Record("cost", tuple(series), settings, refused)


def _installed(refused: dict[str, str]) -> list[Series]:
    """Size of the wheel, and time and disk space of each extra in an empty environment."""
    series = []
    with tempfile.TemporaryDirectory() as scratch:
        pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
        build = [sys.executable, *pip, "wheel", "--no-deps", "-w", scratch, str(ROOT)]
        subprocess.run(build, check=True)
        wheel = next(Path(scratch).glob("samihs-*.whl"))
        series.append(Series("wheel", "size", "MB", (wheel.stat().st_size / 1e6,)))
        for extra in EXTRAS:
            name = f"samihs[{extra}]" if extra else "samihs"
            place = Path(scratch) / "venv"
            venv.create(place, with_pip=True, clear=True)  # one at a time: they take gigabytes
            before = _size_mb(place)
            wanted = f"{wheel}[{extra}]" if extra else str(wheel)
            into = [str(place / "bin" / "python"), *pip, "install", wanted]
            try:
                taken = seconds(
                    lambda into=into: subprocess.run(
                        into, check=True, capture_output=True, text=True
                    )
                )
            except subprocess.CalledProcessError as error:
                refused[name] = _reason(error.stderr)
                continue
            series.append(Series(name, "installation", "s", (taken,)))
            series.append(Series(name, "size on disk", "MB", (_size_mb(place) - before,)))
    return series


def _reason(said: str) -> str:
    """The first error in pip's output, whose last line may be only a hint."""
    lines = said.strip().splitlines()
    errors = [line for line in lines if line.lstrip().lower().startswith("error")]
    return [*(errors or lines), "pip failed"][0]


def _size_mb(folder: Path) -> float:
    """Size of the files; symbolic links, which point out of the environment, do not count."""
    files = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    return sum(each.stat().st_size for each in files) / 1e6


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    print(f"written  {measure(options.runs, options.install).write(options.results)}")


if __name__ == "__main__":
    main()
