"""The terminal: a bar where there is one, nothing of it in a log; text as it came."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from samihs_runtime.console import Screen, _about, _viewer_numbers, print_series

from .dicom_factory import write_series
from .series_factory import make_series


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


@pytest.mark.parametrize("description", ["Head [/5mm]", "Head [bold]thin", "Head :brain: 5 mm"])
def test_the_list_shows_descriptions_as_they_are(
    description: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_series(write_series(tmp_path / "study", SeriesDescription=description))
    assert description in capsys.readouterr().out


def test_uids_are_listed_where_numbers_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_series(tmp_path / "one", SeriesNumber=2, SeriesInstanceUID="1.2.31")
    print_series(tmp_path)
    assert "1.2.31" not in capsys.readouterr().out
    write_series(tmp_path / "other", SeriesNumber=2, SeriesInstanceUID="1.2.32")
    print_series(tmp_path)
    shown = capsys.readouterr().out
    assert "if asked" in shown
    assert "1.2.31" in shown
    assert "1.2.32" in shown


def test_nothing_in_the_list_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole UID is what --series takes."""
    monkeypatch.setenv("COLUMNS", "80")
    uids = [f"1.2.826.0.1.3680043.8.498.{'7' * 37}{end}" for end in (1, 2)]
    assert len(uids[0]) == 64
    description = "Haemorrhagieverlaufskontrolle_Duennschicht"
    for uid in uids:
        tags = {"SeriesNumber": 2, "SeriesInstanceUID": uid, "SeriesDescription": description}
        write_series(tmp_path / uid[-1], **tags)
    print_series(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = zip(*(re.split("[│┃]", line)[1:-1] for line in lines if line[0] in "│┃"), strict=True)
    *_, descriptions, _, why, shown = ("".join(part.strip() for part in each) for each in cells)
    assert shown == "UID" + "".join(uids)
    assert descriptions == "description" + 2 * description
    assert "axial" in why
    assert "…" not in "".join(lines)


def test_nothing_that_is_said_is_markup() -> None:
    screen = Screen()
    screen.console.file = stream = io.StringIO()
    screen.say("p1/[/b] [red]x :brain:: no such file")
    assert stream.getvalue() == "p1/[/b] [red]x :brain:: no such file\n"


def test_a_series_is_told_by_its_size_and_description() -> None:
    assert _about(make_series()) == "5 slices of 64 x 64; Head 5 mm"
    assert _about(make_series((0.0,), description="")) == "1 slice of 64 x 64"


def test_slices_are_told_as_viewers_count_them() -> None:
    assert _viewer_numbers(make_series()) == "slice 0 is image 1, slice 4 is image 5"
    assert _viewer_numbers(make_series((0.0,))) == "slice 0 is image 1"
    assert _viewer_numbers(make_series(enhanced=True)) == "slice 0 is frame 5, slice 4 is frame 1"
    unnumbered = make_series()
    del unnumbered.sources[-1].header.InstanceNumber
    assert _viewer_numbers(unnumbered) == ""
