"""``clicks.csv``: a row for each click that was ever asked in a folder, kept from run to run.

A row is appended and flushed to disk before the next click is asked: however a run ends, the rows
before it are kept. The file is rewritten as a whole at the start and the end of a run; in between,
an id may occur twice, and its later row counts.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.errors import OutputError

FAILED = "failed"


@dataclass(frozen=True)
class TableRow:
    """One click in ``clicks.csv``. No path, name or message: those may identify the patient."""

    id: str
    status: str
    """``found``, ``not found`` or ``failed``."""
    why: str = ""
    """Kind of error, such as StudyError or PromptError; the message went to the terminal."""
    reason: str = ""
    """Which of the fixed reasons of ``errors.Reason`` it is, such as ``outside_image``."""
    volume_ml: str = ""
    abc2_ml: str = ""
    largest_diameter_mm: str = ""
    parts: str = ""
    mean_hu: str = ""
    sd_hu: str = ""
    first_slice: str = ""
    clicked_slice: str = ""
    last_slice: str = ""
    score: str = ""
    lowest_score: str = ""
    """Lowest over all slices of the lesion."""
    seconds: str = ""
    notes: str = ""
    """What is uncertain, such as a volume that is a lower bound, as in the report; separated by
    "; "."""
    version: str = ""
    """Of samihs: rows of earlier runs are kept, and other versions may measure differently."""
    bundle: str = ""
    """Its name, and the first 12 hexadecimal digits of its id."""
    request: str = ""
    """16 hexadecimal digits that hash the request, the study's files and the settings; empty if the
    study could not be examined."""

    @property
    def failed(self) -> bool:
        """Whether the click was not answered."""
        return self.status == FAILED


_COLUMNS = [field.name for field in fields(TableRow)]


class ClickTable:
    """The rows of one file."""

    def __init__(self, path: Path, rows: Iterable[TableRow] = ()) -> None:
        self.path = path
        self._rows = {row.id: row for row in rows}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table as earlier runs left it; empty if there is no file.

        Raises:
            OutputError: the file cannot be read, is not such a table, or has other columns.
        """
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                text = stream.read()
            return cls(path, _parsed(text))
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be read ({error.strerror})") from error
        except (ValueError, csv.Error) as error:
            raise OutputError(
                f"{path} is no table of clicks of this version: choose another --out, or "
                "--overwrite"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def answered(self, name: str, request: str) -> TableRow | None:
        """The earlier answer to the same request; None if there is none, or no request is known."""
        row = self._rows.get(name)
        return row if row and request and row.request == request and not row.failed else None

    def has_answer(self, name: str) -> bool:
        """Whether there is an earlier answer under this id, to whatever request."""
        row = self._rows.get(name)
        return row is not None and not row.failed

    def record(self, row: TableRow) -> None:
        """Keep a row instead of an earlier one of its id; it is on disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        self._rows[row.id] = row
        try:
            with self.path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(_text([row]))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def replace(self, first: Sequence[str] = ()) -> None:
        """Rewrite the file: the rows of these ids in this order, then the others.

        Raises:
            OutputError: the file cannot be written; it is then unchanged.
        """
        order = dict.fromkeys((*(name for name in first if name in self._rows), *self._rows))
        heading = ",".join(_COLUMNS) + "\n"
        try:
            atomic_write(self.path, heading + _text(self._rows[name] for name in order))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} cannot be written ({error.strerror})")


def _text(rows: Iterable[TableRow]) -> str:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, _COLUMNS, lineterminator="\n")
    writer.writerows(asdict(row) for row in rows)
    return lines.getvalue()


def _parsed(text: str) -> list[TableRow]:
    """The inverse of :func:`_text`, below a heading. Raises ValueError for other columns.

    A last line without a line end was being written when its run was interrupted: it is ignored,
    so that its click is asked again.
    """
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if text and reader.fieldnames != _COLUMNS:
        raise ValueError(f"columns {reader.fieldnames}")
    rows = list(reader)
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"a row of other length: {row}")
    return [TableRow(**row) for row in rows]
