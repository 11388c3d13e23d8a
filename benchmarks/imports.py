"""The time a command spends on imports, as measured by Python (``-X importtime``)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

LONGEST = 8
"""Number of packages returned."""


def imported(command: Sequence[str]) -> dict[str, float]:
    """Package -> ms that its own modules took, for the packages that took longest.

    Args:
        command: a Python and its arguments.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    timed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(timed, capture_output=True, text=True, check=True)
    spent: dict[str, float] = {}
    for line in done.stderr.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if own.strip().isdigit():  # not the header, nor output of a module
            package = rest.rpartition("|")[2].strip().partition(".")[0]
            spent[package] = spent.get(package, 0.0) + int(own) / 1000
    longest = sorted(spent.items(), key=lambda each: -each[1])[:LONGEST]
    return {package: round(ms, 1) for package, ms in longest}
