"""``clicks.csv``: what is kept of a run, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from samihs_runtime.batch.table import FAILED, ClickTable, TableRow
from samihs_runtime.errors import OutputError

FOUND = TableRow("a", "found", volume_ml="1.250", notes='one, with a comma; "two"', request="r1")
MISSED = TableRow("b", "not found", request="r2")


def table(path: Path, *rows: TableRow) -> ClickTable:
    made = ClickTable(path, rows)
    made.replace()
    return made


def test_a_row_is_on_disk_when_it_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    kept = table(path)
    for row in (FOUND, MISSED):
        kept.record(row)
        assert ClickTable.read(path).answered(row.id, row.request) == row


def test_a_row_is_appended_not_all_written_anew(tmp_path: Path) -> None:
    """100,000 clicks would else write 50 GB."""
    path = tmp_path / "clicks.csv"
    kept = table(path, *(TableRow(str(number), "not found") for number in range(100)))
    inode, size = path.stat().st_ino, path.stat().st_size
    kept.record(FOUND)
    assert path.stat().st_ino == inode
    assert path.stat().st_size < size + 200


def test_a_line_that_was_cut_off_is_a_click_that_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    table(path, MISSED, FOUND)
    path.write_bytes(path.read_bytes()[:-3])
    left = ClickTable.read(path)
    assert len(left) == 1
    left.replace()
    left.record(FOUND)
    assert len(ClickTable.read(path)) == 2


def test_of_an_id_that_comes_twice_the_later_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    kept = table(path, FOUND)
    kept.record(TableRow("a", "not found", request="r3"))
    read = ClickTable.read(path)
    assert read.answered("a", "r1") is None
    assert read.answered("a", "r3") is not None
    assert len(read) == 1


def test_a_failure_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    kept = table(path, FOUND)
    assert kept.has_answer("a")
    assert not kept.has_answer("b")
    kept.record(TableRow("a", FAILED, why="PromptError", request="r1"))
    for read in (kept, ClickTable.read(path)):
        assert read.answered("a", "r1") is None
        assert not read.has_answer("a")


def test_what_is_not_known_to_be_the_same_request_is_no_answer_to_it(tmp_path: Path) -> None:
    """A request of which the study cannot be looked at has no fingerprint."""
    kept = table(tmp_path / "clicks.csv", TableRow("a", "found", request=""))
    assert kept.answered("a", "") is None


def test_named_rows_come_first_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    table(path, FOUND, MISSED, TableRow("c", "found")).replace(["c", "absent", "b"])
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["id", "c", "b", "a"]


@pytest.mark.parametrize("text", ["other,columns\n1,2\n", "no end", "id,status\na,found\n"])
def test_another_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text(text)
    with pytest.raises(OutputError, match="no table of clicks of this version"):
        ClickTable.read(tmp_path / "clicks.csv")


def test_a_row_of_other_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    table(path)
    for line in ("a,found\n", ",".join("x" * 30) + "\n"):
        path.write_text(path.read_text().splitlines()[0] + "\n" + line)
        with pytest.raises(OutputError, match="no table of clicks"):
            ClickTable.read(path)
