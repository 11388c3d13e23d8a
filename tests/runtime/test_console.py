"""The terminal: a bar where there is one, nothing of it in a log."""

from __future__ import annotations

import io

from rich.console import Console

from samihs_runtime.console import Screen


def shown(terminal: bool) -> str:
    screen = Screen()
    stream = io.StringIO()
    screen.console = Console(file=stream, force_terminal=terminal, width=100)
    with screen.counting("reading the study", "slices") as count:
        for done in range(1, 31):
            count(done, 30)
    return stream.getvalue()


def test_a_progress_bar_counts_on_a_terminal() -> None:
    text = shown(terminal=True)
    assert "reading the study" in text
    assert "30/30" in text
    assert "slices" in text


def test_a_log_gets_no_bar() -> None:
    assert shown(terminal=False) == ""
