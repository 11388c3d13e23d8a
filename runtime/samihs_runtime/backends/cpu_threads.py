"""How many threads a run on the CPU gets."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from samihs_runtime.errors import UsageError

THREADS = "SAMIHS_THREADS"
"""Environment variable: number of threads of a run on the CPU, to override the default."""


def cpu_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads for a run: the value of :data:`THREADS`, or else the cores that this process may use.

    taskset and a container's cpuset allow fewer cores than there are; a container's quota allows
    less time on them, and threads beyond it only slow each other down.

    Raises:
        UsageError: :data:`THREADS` is not a number of threads.
    """
    wanted = os.environ.get(THREADS, "").strip()
    if wanted:
        if not re.fullmatch("[1-9][0-9]{0,2}", wanted):
            raise UsageError(f"{THREADS} is {wanted!r}: expected a whole number from 1 to 999")
        return int(wanted)
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(cgroup))))


def cpu_quota(cgroup: Path) -> float:
    """CPU time that a container may use, in cores; infinite if there is no quota.

    Args:
        cgroup: where control groups are mounted; in a container its own group is the root there.
    """
    version_2, version_1 = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    for files in (version_2, version_1):
        try:
            said = " ".join((cgroup / each).read_text() for each in files)
            quota, period = map(int, said.split())
        except (OSError, ValueError):  # the other version, or "max"
            continue
        if quota > 0 and period > 0:  # version 1 has -1 if there is no quota
            return quota / period
    return math.inf
