"""Many clicks, one after another: a folder for each, and one table of all that can be resumed.

The table is written anew, whole, after each click. A click that stands in it with the same request,
settings, version of samihs and files of its study is not done again; one that failed is. A failing
click stops no other. Rows of clicks that the file no longer names stay, as their folders do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.clicks import TABLE_NAME
from samihs_runtime.console import Screen
from samihs_runtime.errors import BackendError, NonFiniteError, OutputError, UserError
from samihs_runtime.folder_lock import held_alone
from samihs_runtime.identity import Scrubber
from samihs_runtime.infer import Answer, answer_click, request_on
from samihs_runtime.options import open_segmenter
from samihs_runtime.report import installed_version
from samihs_runtime.study import read_study
from samihs_runtime.writers import NAMES, RESERVED
from samihs_runtime.writers.files import check_destination

if TYPE_CHECKING:
    from samihs_runtime.clicks import ClickRow
    from samihs_runtime.options import Options
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries

FAILED = "failed"
_HEADINGS = {"fingerprint": "request"}
"""Columns that are not called as their field is."""


@dataclass(frozen=True)
class TableRow:
    """One click in ``clicks.csv``. No path, name or message: those may carry identity."""

    id: str
    status: str
    """``found``, ``not found`` or ``failed``."""
    why: str = ""
    """Kind of error, such as StudyError or PromptError; the terminal had the message."""
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
    """Of all slices of the lesion."""
    seconds: str = ""
    notes: str = ""
    """What is uncertain, such as a volume that is a lower bound, as the report has it; by "; "."""
    fingerprint: str = ""
    """Of what was asked, and with which settings, bundle and version of samihs; the column
    ``request``."""


def run_clicks(rows: list[ClickRow], options: Options) -> Path:
    """Answer all rows into ``options.out``; returns the table's path.

    Raises:
        OutputError: the folder holds something else, cannot be written, or another run has it.
        UserError: some clicks failed, after all the others were answered.
    """
    check_destination(options.out)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {options.out}: {error.strerror}") from error
    try:
        # A second run would write the table anew without the first one's rows.
        with held_alone(options.out, "answers clicks"):
            return _run_clicks(rows, options)
    finally:
        with suppress(OSError):
            options.out.rmdir()  # where nothing came to lie in it


def _run_clicks(rows: list[ClickRow], options: Options) -> Path:
    screen = Screen()
    table = options.out / TABLE_NAME
    done = _earlier(table, options)
    with open_segmenter(options) as segmenter:
        settings = _settings(options, segmenter)
        places = {row.click.study for row in rows}
        studies = {place: _state_of(place, options.out) for place in places}
        numbers = _lesion_numbers(rows)
        # The number is in the objects: two of a study in one file never bear the same.
        fingerprints = {
            row.id: _mixed(
                row.fingerprint, str(numbers[row.id]), studies[row.click.study], settings
            )
            for row in rows
        }
        kept = {
            name: each for name, each in done.items() if fingerprints.get(name) == each.fingerprint
        }  # of this file, with these settings
        elsewhere = [each for name, each in done.items() if name not in fingerprints]
        screen.backend(segmenter)
        if kept:
            screen.say(f"{len(kept)} of {len(rows)} clicks were answered before")
        worker = _Worker(segmenter, options, screen)
        with screen.counting("clicks", "clicks") as count:
            for position, row in enumerate(rows, start=1):
                if row.id not in kept:
                    kept[row.id] = worker.answer(row, numbers[row.id], fingerprints[row.id])
                    answered = (kept[each.id] for each in rows if each.id in kept)
                    _write(table, (*answered, *elsewhere))
                count(position, len(rows))
    results = [kept[row.id] for row in rows]
    _write(table, (*results, *elsewhere))
    screen.clicks(results, table)
    failed = sum(each.status == FAILED for each in results)
    if failed:
        raise UserError(
            f"{failed} of {len(rows)} clicks failed, as said above; mend them and run the same "
            "command again: the others are kept"
        )
    return table


class _Worker:
    """Answers rows; keeps the last study, as rows of one study tend to follow each other."""

    def __init__(self, segmenter: Segmenter, options: Options, screen: Screen) -> None:
        self._segmenter = segmenter
        self._options = options
        self._screen = screen
        self._last: tuple[tuple[Path, str | None], CTSeries] | None = None

    def answer(self, row: ClickRow, number: int, fingerprint: str) -> TableRow:
        """The row's result, its files written; an error becomes a row, too.

        ``number``: of the lesion in its study.

        Raises:
            BackendError: no other row would fare better. An answer that is not finite is no such
                case: half precision may overflow on one slice alone.
        """
        started = time.perf_counter()
        # What lies in the row's folder is of a run that was cut off, or of another request.
        write = replace(self._options.write, overwrite=True)
        out = self._options.out / row.id
        options = replace(self._options, out=out, write=write, lesion_number=number)
        try:
            series = self._series(row)
            loaded = {"load": time.perf_counter() - started}
            answer = answer_click(
                self._segmenter, series, request_on(row.click, series), options, loaded
            )
        except NonFiniteError as error:
            return self._failed(row, error, fingerprint)
        except BackendError:
            self._screen.say(f"{row.id}: the backend failed at this click", "red")
            raise
        except Exception as error:  # a fault of ours over one study costs no other row, either
            return self._failed(row, error, fingerprint)
        notes = Scrubber(series).texts((*answer.lesion.notes, *answer.measurement.notes))
        for note in notes:
            self._screen.say(f"{row.id}: {note}")
        row_of_table = _table_row(row.id, answer, time.perf_counter() - started, fingerprint)
        return replace(row_of_table, notes="; ".join(notes))

    def _failed(self, row: ClickRow, error: Exception, fingerprint: str) -> TableRow:
        for name in RESERVED:  # of an earlier request: they would pass for this one's answer
            (self._options.out / row.id / name).unlink(missing_ok=True)
        self._screen.say(f"{row.id}: {_told(error)}", "red")
        return TableRow(row.id, FAILED, why=type(error).__name__, fingerprint=fingerprint)

    def _series(self, row: ClickRow) -> CTSeries:
        key = (row.click.study, row.click.series)
        if self._last is None or self._last[0] != key:
            self._last = None  # two series need not fit into memory together
            series = read_study(row.click.study, series=row.click.series)
            for note in Scrubber(series).texts(series.notes):
                self._screen.say(f"{row.id}: {note}")
            self._last = (key, series)
        return self._last[1]


def _told(error: Exception) -> str:
    """The user's error in its own words; a fault of ours with its kind, and how to see more."""
    if isinstance(error, UserError):
        return str(error)
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"internal error: {kind}: {text} (this click alone with --debug shows where)"


def _table_row(name: str, answer: Answer, seconds: float, fingerprint: str) -> TableRow:
    lesion, numbers = answer.lesion, answer.measurement
    indices = [part.index for part in lesion.slices]
    return TableRow(
        id=name,
        status="found" if lesion.found else "not found",
        volume_ml=_text(numbers.volume_ml, 3),
        abc2_ml=_text(numbers.abc2_ml, 3),
        largest_diameter_mm=_text(numbers.largest_diameter_mm, 2),
        parts=str(numbers.parts),
        mean_hu=_text(numbers.mean_hu, 1),
        sd_hu=_text(numbers.sd_hu, 1),
        first_slice=str(min(indices, default="")),
        clicked_slice=str(lesion.clicked_slice),
        last_slice=str(max(indices, default="")),
        score=_text(lesion.score, 4),
        lowest_score=_text(min((part.score for part in lesion.slices), default=None), 4),
        seconds=_text(seconds, 2),
        fingerprint=fingerprint,
    )


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _lesion_numbers(rows: Iterable[ClickRow]) -> dict[str, int]:
    """Id -> which one of the clicks on its study it is, from 1, in the file's order."""
    counts: Counter[Path] = Counter()
    numbers = {}
    for row in rows:
        study = row.click.study.absolute()
        counts[study] += 1
        numbers[row.id] = counts[study]
    return numbers


def _settings(options: Options, segmenter: Segmenter) -> str:
    """Everything beside the click and its study that a result depends on."""
    write = options.write
    chosen = (options.propagation, sorted(options.formats), write.fractional, write.resample)
    model = f"{segmenter.bundle.id}|{segmenter.backend.precision}"
    # Another version may measure or write otherwise: one table holds one version's answers.
    return f"{installed_version()}|{model}|{chosen}|{write.identify}|{write.deidentify}"


def _state_of(study: Path, out: Path) -> str:
    """Names, sizes and times of a study's files, but for what we write into it ourselves: another
    study may come to lie at its place."""
    files = sorted(study.rglob("*")) if study.is_dir() else [study]
    ours = out.resolve()
    digest = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
        except OSError:  # read_study will say what is wrong with it
            continue
        if not path.is_dir() and not path.resolve().is_relative_to(ours):
            text = f"{path.relative_to(study)}|{status.st_size}|{status.st_mtime_ns}|"
            digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _mixed(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _earlier(table: Path, options: Options) -> dict[str, TableRow]:
    """What an earlier run of the same clicks answered, by id; failures are to be tried again."""
    if options.write.overwrite or not options.out.exists():
        return {}
    if not table.is_file():
        if any(map(_is_of_somebody, options.out.iterdir())):
            raise OutputError(
                f"{options.out} holds other files and no {TABLE_NAME} to go on from: choose "
                "another --out, or --overwrite"
            )
        return {}
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            rows = [_row(columns) for columns in csv.DictReader(stream)]
    except (TypeError, ValueError, csv.Error) as error:
        raise OutputError(
            f"{table} is no table of clicks of this version: choose another --out, or --overwrite"
        ) from error
    return {
        row.id: row
        for row in rows
        if row.status != FAILED and _is_whole(options.out / row.id, options.formats)
    }


def _is_of_somebody(path: Path) -> bool:
    """Not what a system puts into every folder or volume, nor what a run that was killed left."""
    return not path.name.startswith(".") and path.name != "lost+found"


def _is_whole(folder: Path, formats: Iterable[str]) -> bool:
    """Whether the files that every answer comes with, found or not, are all there."""
    return all((folder / NAMES[each][0]).is_file() for each in formats)


def _write(table: Path, rows: Iterable[TableRow]) -> None:
    """Replace the table at once, so that a run cut off at any time leaves a whole one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_values(row) for row in rows)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(table, text.getvalue())
    except OSError as error:
        raise OutputError(f"{table} cannot be written ({error.strerror})") from error


def _columns() -> dict[str, str]:
    """Heading -> name of the field, in order."""
    return {_HEADINGS.get(field.name, field.name): field.name for field in fields(TableRow)}


def _values(row: TableRow) -> dict[str, Any]:
    return {heading: getattr(row, name) for heading, name in _columns().items()}


def _row(values: dict[str, str]) -> TableRow:
    """The inverse of :func:`_values`. Raises ValueError where columns are others, or cut off."""
    columns = _columns()
    if set(values) != set(columns) or None in values.values():
        raise ValueError(f"columns {', '.join(map(str, values))}")
    return TableRow(**{columns[heading]: value for heading, value in values.items()})
