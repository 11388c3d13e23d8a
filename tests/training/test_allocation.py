"""What a training process keeps of the memory it frees: tested in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FRESH_PAGES = """
import resource, sys
import torch
from samihs_training.compute.allocation import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(16):  # until the heap has room for it at any alignment
    torch.ones(64 << 18)  # 64 MB, above what glibc's heap would serve by itself
before = faults()
for _ in range(8):
    torch.ones(64 << 18)
print(faults() - before)
"""


def page_faults(what: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PAGES, what], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    kept, given_back = page_faults("keep"), page_faults("give back")
    assert given_back > 200  # pages of 4 kB or, where the system makes them huge, of 2 MB
    assert kept < given_back / 10
