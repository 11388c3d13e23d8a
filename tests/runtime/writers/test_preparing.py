"""What writing needs is loaded beside the model, by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from samihs_runtime.formats import NAMES
from samihs_runtime.writers import preparing


def test_every_format_is_prepared_by_modules_that_there_are() -> None:
    assert {*preparing._BEHIND, "json"} == set(NAMES)
    for name in {*preparing._FOR_ALL, *sum(preparing._BEHIND.values(), ())}:
        assert importlib.util.find_spec(name) is not None


def test_after_joining_nothing_is_left_to_load() -> None:
    """In a process of its own: this one has loaded everything long ago."""
    script = (
        "import sys\n"
        "from samihs_runtime.writers.preparing import prepare\n"
        "prepare(('seg', 'overlay')).join()\n"
        "from highdicom._standard_utils import get_module_attribute_map\n"
        "assert get_module_attribute_map.cache_info().currsize == 1\n"
        "before = set(sys.modules)\n"
        "import highdicom, scipy.ndimage, scipy.spatial\n"
        "import samihs_runtime.writers.seg, samihs_runtime.writers.overlay\n"
        "assert not set(sys.modules) - before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_loaded_is_left_to_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)  # importing it raises ImportError
    thread = preparing.prepare(("seg", "no such format"))
    thread.join(timeout=30)
    assert not thread.is_alive()
