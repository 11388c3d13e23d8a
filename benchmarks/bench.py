"""The CPU benchmarks, then the report.

    python benchmarks/bench.py [--only latency,peers] [--brief | --full]

Without options, the suites of ``SUITES`` that have a share of the time take about 14 minutes on two
idle cores: rounds end when a share is used up, and the result says how many there were. ``--full``
has no limit, runs more rounds, and includes the suites without a share: more than two hours.
``--brief`` runs a few rounds of everything, to try out the machinery and not for figures, and
therefore writes to a temporary folder unless ``--results`` names one. What needs more than this
repository and its CPU is in no suite (``ELSEWHERE``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import base_step
import cost
import latency
import loading
import mask_grid
import methods
import operators
import peers
import precisions
import propagation
import report
import robustness
import scaling
from record import RESULTS, Record, command_line, results_of
from stopwatch import UNLIMITED, Budget

import training
from samihs_training.data.phantom import BleedType


@dataclass(frozen=True)
class Suite:
    """One benchmark, at three lengths."""

    seconds: float
    """Its share of `make bench`; 0 if it only runs with ``--full``."""
    usual: Callable[[Budget], Record]
    brief: Callable[[], Record]
    full: Callable[[], Record]


SUITES: dict[str, Suite] = {
    "latency": Suite(
        110,
        lambda budget: latency.measure(budget=budget),
        lambda: latency.measure(runs=1, clicks=10),
        lambda: latency.measure(runs=15, clicks=1000),
    ),
    "cost": Suite(
        15,
        lambda budget: cost.measure(budget=budget),
        lambda: cost.measure(runs=1),
        lambda: cost.measure(runs=15, install=True),
    ),
    "scaling": Suite(
        130,
        lambda budget: scaling.measure(budget=budget),
        lambda: scaling.measure(rounds=1, largest=256, points=2),
        lambda: scaling.measure(rounds=7),
    ),
    "peers": Suite(
        310,
        lambda budget: peers.measure(rounds=5, subjects=peers.USUAL, budget=budget),
        lambda: peers.measure("tiny", rounds=1, batches=(2,)),
        lambda: peers.measure(rounds=9, batches=(4, 8)),
    ),
    "operators": Suite(
        0,
        lambda budget: operators.measure(),
        lambda: operators.measure("tiny", rounds=1),
        lambda: operators.measure(rounds=9),
    ),
    "operators-shipped": Suite(
        0,
        lambda budget: operators.measure(operators.SHIPPED, rounds=20),
        lambda: operators.measure(operators.SHIPPED, rounds=1),
        lambda: operators.measure(operators.SHIPPED, rounds=50),
    ),
    "methods": Suite(
        70,
        lambda budget: methods.measure(studies=8),
        lambda: methods.measure(studies=1),
        lambda: methods.measure(studies=60),
    ),
    "precisions": Suite(
        180,
        lambda budget: precisions.measure(studies=4),
        lambda: precisions.measure(studies=1, precisions=("fp16",)),
        lambda: precisions.measure(studies=60),
    ),
    "propagation": Suite(
        0,
        lambda budget: propagation.measure(geometries=propagation.THICK),
        lambda: propagation.measure(seeds=1, geometries=("5 mm",)),
        lambda: propagation.measure(geometries=propagation.THICK),
    ),
    "propagation-thin": Suite(
        0,
        lambda budget: propagation.measure(seeds=1, geometries=propagation.THIN),
        lambda: propagation.measure(
            seeds=1, geometries=("2.5 mm",), kinds=(BleedType.INTRAPARENCHYMAL,)
        ),
        lambda: propagation.measure(seeds=1, geometries=propagation.THIN),
    ),
    "robustness": Suite(
        0,
        lambda budget: robustness.measure(),
        lambda: robustness.measure(studies=1),
        lambda: robustness.measure(),
    ),
    "mask-grid": Suite(
        0,
        lambda budget: mask_grid.measure(),
        lambda: mask_grid.measure(studies=1),
        lambda: mask_grid.measure(),
    ),
    "loading": Suite(
        0,
        lambda budget: loading.measure(),
        lambda: loading.measure(slices=8, runs=1, coding="rle"),
        lambda: loading.measure(runs=7),
    ),
    "training": Suite(
        0,
        lambda budget: training.measure(training.Plan()),
        lambda: training.measure(training.Plan(steps=1, rounds=1)),
        lambda: training.measure(training.Plan()),
    ),
    "base-step": Suite(
        0,
        lambda budget: base_step.measure(),
        lambda: base_step.measure(batch=1, rounds=1),
        lambda: base_step.measure(rounds=7),
    ),
    "training-vit_b": Suite(
        0,
        lambda budget: training.measure(training.VIT_B),
        lambda: training.measure(training.Plan("vit_b", 256, 1, 1, steps=1, rounds=1)),
        lambda: training.measure(training.VIT_B),
    ),
}

ELSEWHERE = {
    "patients.py": "needs a data set of patients, of which the repository contains none",
    "unet.py": "trains a network to compare with",
    "methods.py --checkpoint": "compares runs of `samihs-train compare`",
    "gpu.py": "needs a GPU",
}
"""Scripts that no suite runs, and why."""


def run(name: str, length: str, results: Path) -> None:
    """Run one suite, write its record, and print how long it took and what it had no time for."""
    suite, started = SUITES[name], time.perf_counter()
    if length == "usual":
        budget = Budget(suite.seconds) if suite.seconds else UNLIMITED
        record = suite.usual(budget)
    else:
        budget, record = UNLIMITED, (suite.brief if length == "brief" else suite.full)()
    taken, share = time.perf_counter() - started, budget.seconds
    print(f"{name}: {taken:.0f} s, written  {record.write(results)}", flush=True)
    for each in budget.shortened:
        print(f"{name}: cut short by its share of {share:.0f} s: {each}", flush=True)
    if taken > 1.1 * share:
        print(f"{name}: over its share: {taken:.0f} s of {share:.0f} s", flush=True)


def main() -> None:
    """Run the chosen suites."""
    parser = command_line(__doc__)
    told = "; ".join(f"{script} {why}" for script, why in ELSEWHERE.items())
    parser.epilog = f"In no suite, whatever the length: {told}."
    parser.add_argument("--only", help=f"some of {','.join(SUITES)}")
    length = parser.add_mutually_exclusive_group()
    brief = "a few rounds, not for figures: into a temporary folder unless --results names one"
    length.add_argument("--brief", dest="length", action="store_const", const="brief", help=brief)
    full = "every suite, without a limit of time and with more rounds: more than two hours"
    length.add_argument("--full", dest="length", action="store_const", const="full", help=full)
    parser.set_defaults(length="usual", results=None)
    options = parser.parse_args()
    usual = [name for name, suite in SUITES.items() if suite.seconds]
    everything = usual if options.length == "usual" else list(SUITES)
    chosen = options.only.split(",") if options.only else everything
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        sys.exit(f"error: no benchmark {unknown[0]!r}: there are {', '.join(SUITES)}")
    results = results_of(options.results, options.length == "brief")
    started = time.perf_counter()
    for name in chosen:
        run(name, options.length, results)
    out = report.HERE if results == RESULTS else results
    print(f"written  {report.write(results, out)}")
    print(f"all: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
