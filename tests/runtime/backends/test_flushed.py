"""A click takes as long, and the caller's arithmetic is the same, whatever thread asks."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from samihs_runtime.backends.flushed import FlushedSession
from samihs_runtime.backends.onnx_cpu import CpuBackend, open_cpu
from samihs_runtime.bundle import Bundle
from samihs_runtime.timing import Timings
from tests.runtime.forked import needs_fork, said_in_child

from .gpu_cases import prompts, slices, windows


class Remembering:
    """A session that says on which thread it ran."""

    def run(self, outputs: list[str], feeds: dict[str, object]) -> list[object]:
        return [outputs, feeds, threading.get_ident()]


def test_runs_have_a_thread_of_their_own_that_ends() -> None:
    before = threading.active_count()
    session = FlushedSession.made(Remembering, "samihs-test")
    (outputs, feeds, first), (_, _, second) = (session.run(("a",), {"b": one}) for one in "xy")
    assert (outputs, feeds) == (["a"], {"b": "x"})
    assert first == second != threading.get_ident()
    session.close()
    assert threading.active_count() <= before + 1  # the maker of sessions goes on


def test_what_making_raises_is_raised() -> None:
    def refuse() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        FlushedSession.made(refuse, "samihs-test")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime flushes on x86 only")
def test_only_the_threads_of_sessions_flush(tiny_bundle: Path) -> None:
    """In a process of its own: its first session decides."""
    script = (
        "import sys, numpy as np\n"
        "from samihs_runtime.segmenter import Segmenter\n"
        "def kept(): return bool(np.float32(1e-40) * np.float32(1) != 0)\n"
        "with Segmenter.from_bundle(sys.argv[1], 'cpu') as segmenter:\n"
        "    segmenter.load()\n"
        "    sessions = segmenter.backend._sessions\n"
        "    inside = [each._thread.call(kept) for each in sessions.values()]\n"
        "print(kept(), inside)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "True [False, False]", done.stderr


@needs_fork
def test_a_forked_child_gets_an_error_and_waits_for_no_thread(cpu: CpuBackend) -> None:
    encoded = cpu.encode(slices(1), windows(1))
    *refused, last = said_in_child(
        [
            lambda: cpu.encode(slices(1), windows(1)),
            lambda: cpu.decode(encoded, *prompts(1, 2), None),
            cpu.load,
            cpu.close,
        ]
    )
    assert len(refused) == 3
    assert all(each.startswith("this process was forked after") for each in refused)
    assert all("multiprocessing's 'spawn' method" in each for each in refused)
    assert last == "gave None"
    cpu.decode(encoded, *prompts(1, 2), None)  # the parent is as it was


@needs_fork
def test_a_backend_that_has_not_begun_may_begin_in_a_forked_child(bundle: Bundle) -> None:
    with open_cpu(bundle, Timings()) as opened:
        works = [lambda: len(opened.encode(slices(2), windows(2)))]
        assert said_in_child(works) == ["gave 2"]
