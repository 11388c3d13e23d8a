"""All CPU benchmarks, then the report.

    python benchmarks/bench.py [--only latency,peers] [--brief]

``--brief`` takes a few rounds of everything: for a try of the machinery, not for figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import cost
import latency
import methods
import peers
import precisions
import report
import scaling
from record import RESULTS, Record

SUITES: dict[str, tuple[Callable[[], Record], Callable[[], Record]]] = {
    "latency": (latency.measure, lambda: latency.measure(runs=2)),
    "cost": (cost.measure, lambda: cost.measure(runs=2)),
    "scaling": (scaling.measure, lambda: scaling.measure(rounds=1, largest=256)),
    "peers": (peers.measure, lambda: peers.measure(rounds=2)),
    "methods": (methods.measure, lambda: methods.measure(studies=2)),
    "precisions": (precisions.measure, lambda: precisions.measure(studies=2, precisions=("fp16",))),
}
"""Name -> in full, and brief."""


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"some of {','.join(SUITES)}")
    parser.add_argument("--brief", action="store_true")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SUITES)
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        sys.exit(f"error: no benchmark {unknown[0]!r}: there are {', '.join(SUITES)}")
    for name in chosen:
        started = time.perf_counter()
        record = SUITES[name][options.brief]()
        print(f"{name}: {time.perf_counter() - started:.0f} s, written  {record.write()}")
    print(f"written  {report.write(RESULTS, report.HERE)}")


if __name__ == "__main__":
    main()
