"""Many clicks, one after another: a folder for each, and one table of all, which can be resumed.

A click is not asked again if the table has it with the same request, settings, version of samihs
and study files, and its output files exist. Failed clicks are asked again; with ``--overwrite`` all
are. A failing click does not stop the others. Rows and folders of clicks that the file does not
name are kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.batch.clicks import TABLE_NAME
from samihs_runtime.batch.jobs import Job, jobs_of
from samihs_runtime.batch.table import FAILED, ClickTable, TableRow
from samihs_runtime.console import Screen
from samihs_runtime.errors import (
    BackendError,
    FormatError,
    NonFiniteError,
    OutputError,
    PromptError,
    Reason,
    SamihsError,
    SeriesError,
    UserError,
)
from samihs_runtime.folder_lock import held_alone
from samihs_runtime.formats import NAMES, RESERVED
from samihs_runtime.infer import Answer, answer_click, request_on
from samihs_runtime.options import open_segmenter
from samihs_runtime.report import installed_version
from samihs_runtime.study import read_study
from samihs_runtime.writers.files import check_destination

if TYPE_CHECKING:
    from samihs_runtime.batch.clicks import ClickRow
    from samihs_runtime.options import Options
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries


_IN_THE_FILE: dict[Reason, str] = {
    "no_plausible_hu": '"slice": N, or a third number in "points"',
    "several_series": '"series"',
    "several_studies": '"series", or one study as "study"',
}
"""What the clicks file has instead of the options that the messages for these reasons name."""


def run_clicks(rows: list[ClickRow], options: Options) -> Path:
    """Answer all rows into ``options.out``; returns the table's path.

    Raises:
        OutputError: the folder holds something else, cannot be written, or is in use by another
            run.
        UserError: some clicks failed; all the others were answered first.
    """
    check_destination(options.out)
    existed = options.out.exists()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {options.out}: {error.strerror}") from error
    try:
        # Two runs at once would each rewrite the table without the other's rows.
        with held_alone(options.out, "answers clicks"):
            return _run_clicks(rows, options)
    finally:
        if not existed:
            with suppress(OSError):
                options.out.rmdir()  # succeeds only if nothing was written into it


def _run_clicks(rows: list[ClickRow], options: Options) -> Path:
    screen = Screen()
    table = _earlier(options)
    with open_segmenter(options) as segmenter:
        jobs = jobs_of(rows, options, segmenter)
        done = {} if options.write.overwrite else _done(jobs, table, options)
        screen.backend(segmenter)
        if done:
            screen.say(f"{len(done)} of {len(rows)} clicks were answered before")
        table.replace()
        try:
            results = _answer(jobs, done, _Worker(segmenter, options, screen, table), screen)
        finally:  # so that an interrupted run leaves no duplicate ids, either
            table.replace([row.id for row in rows])
    screen.clicks(results, table.path)
    failed = sum(each.failed for each in results)
    if failed:
        raise UserError(
            f"{failed} of {len(rows)} clicks failed, as reported above; fix them and run the same "
            "command again: the others are kept"
        )
    return table.path


def _answer(
    jobs: list[Job], done: dict[str, TableRow], worker: _Worker, screen: Screen
) -> list[TableRow]:
    """A row for each job; those of jobs already done are taken unchanged."""
    results: dict[str, TableRow] = {}
    try:
        with screen.counting("clicks", "clicks") as count:
            for position, job in enumerate(jobs, start=1):
                name = job.row.id
                results[name] = done.get(name) or worker.answer(job)
                if name not in done:
                    screen.answered(results[name], position, len(jobs))
                count(position, len(jobs))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        answered = sum(not row.failed for row in {**done, **results}.values())
        screen.say(f"{answered} of {len(jobs)} clicks done; {worker.how_to_go_on}", "yellow")
        raise
    return list(results.values())


class _Worker:
    """Answers rows. Keeps the last study, since rows of one study tend to be consecutive."""

    def __init__(
        self, segmenter: Segmenter, options: Options, screen: Screen, table: ClickTable
    ) -> None:
        self._segmenter = segmenter
        self._options = options
        self._screen = screen
        self._table = table
        self._last: tuple[tuple[Path, str | None], CTSeries] | None = None
        bundle = segmenter.bundle
        self._made_by = (installed_version(), f"{bundle.manifest.name} {bundle.id[:12]}")

    @property
    def how_to_go_on(self) -> str:
        """What to do after an interruption."""
        if self._options.write.overwrite:
            return "the same command without --overwrite continues, and keeps earlier answers"
        return "the same command continues"

    def answer(self, job: Job) -> TableRow:
        """Do the job: write its files and record its row. An error becomes a row, too.

        Raises:
            BackendError: no other row would succeed. An answer that is not finite does not count
                as such: half precision may overflow on a single slice.
            OutputError: the table cannot be written.
        """
        try:
            result = self._result(job)
        except BackendError as error:
            if not isinstance(error, NonFiniteError):
                self._screen.say(f"{job.row.id}: the backend failed at this click", "red")
                raise
            return self._failed(job, error)
        except Exception as error:  # nor may a bug that one study triggers affect the other rows
            return self._failed(job, error)
        self._table.record(result)
        return result

    def _result(self, job: Job) -> TableRow:
        started = time.perf_counter()
        row = job.row
        # Whatever is in the row's folder comes from an interrupted run or from another request.
        write = replace(self._options.write, overwrite=True)
        out = self._options.out / row.id
        options = replace(self._options, out=out, write=write, lesion_number=job.number)
        series = self._series(row)
        loaded = {"load": time.perf_counter() - started}
        request = request_on(row.click, series)
        answer = answer_click(self._segmenter, series, request, options, loaded)
        notes = (*answer.lesion.notes, *answer.measurement.notes)
        for note in notes:
            self._screen.say(f"{row.id}: {note}")
        result = _table_row(row.id, answer, time.perf_counter() - started)
        return self._signed(job, replace(result, notes="; ".join(notes)))

    def _failed(self, job: Job, error: Exception) -> TableRow:
        """The row of a failure; it is recorded unless an earlier answer stays in its place."""
        name = job.row.id
        self._screen.say(f"{name}: {_told(error)}", "red")
        reason = error.reason if isinstance(error, SamihsError) else "internal_error"
        failure = TableRow(name, FAILED, why=type(error).__name__, reason=reason)
        failure = self._signed(job, failure)
        if not keeps_earlier(error):
            self._remove_files(name)
        elif self._table.has_answer(name):
            return failure
        self._table.record(failure)
        return failure

    def _signed(self, job: Job, row: TableRow) -> TableRow:
        version, bundle = self._made_by
        return replace(row, version=version, bundle=bundle, request=job.request)

    def _remove_files(self, name: str) -> None:
        """Remove the files of an earlier answer; those that cannot be removed are reported."""
        folder, why_not = self._options.out / name, None
        for each in RESERVED:
            try:
                (folder / each).unlink(missing_ok=True)
            except OSError as error:
                why_not = error.strerror
        if why_not:
            self._screen.say(
                f"{name}: an earlier answer cannot be removed from {folder} ({why_not}): remove "
                "it, it does not answer this click",
                "red",
            )

    def _series(self, row: ClickRow) -> CTSeries:
        key = (row.click.study, row.click.series)
        if self._last is None or self._last[0] != key:
            self._last = None  # freed first: two series may not fit into memory together
            series = read_study(row.click.study, series=row.click.series)
            for note in series.notes:
                self._screen.say(f"{row.id}: {note}")
            self._last = (key, series)
        return self._last[1]


def keeps_earlier(error: Exception) -> bool:
    """Whether an earlier answer under a click's id stays when the click now fails.

    It does if the click could not be judged, as with a study that cannot be read at present, or a
    full disk. It goes if the study was read and the request is refused, because it would be taken
    for the answer to that request.
    """
    return not isinstance(error, (PromptError, SeriesError, FormatError))


def _told(error: Exception) -> str:
    """The message of a user error; for an internal error its type, and how to see more."""
    if isinstance(error, UserError):
        instead = _IN_THE_FILE.get(error.reason)
        return f"{error} (in the clicks file: {instead})" if instead else str(error)
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"internal error: {kind}: {text} (run this click alone with --debug to see where)"


def _table_row(name: str, answer: Answer, seconds: float) -> TableRow:
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
    )


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _done(jobs: list[Job], table: ClickTable, options: Options) -> dict[str, TableRow]:
    """Id -> row of the jobs that need not be done again."""
    found = {job.row.id: table.answered(job.row.id, job.request) for job in jobs}
    return {
        name: row
        for name, row in found.items()
        if row is not None and _is_whole(options.out / name, options.formats)
    }


def _earlier(options: Options) -> ClickTable:
    """The table of earlier runs; a new one if there is none, or if it cannot be read and may be
    overwritten.

    Raises:
        OutputError: the folder is not ours, or the table is of another version.
    """
    path, overwrite = options.out / TABLE_NAME, options.write.overwrite
    if not path.is_file() and not overwrite and any(map(_is_of_somebody, options.out.iterdir())):
        raise OutputError(
            f"{options.out} holds other files and no {TABLE_NAME} to go on from: choose "
            "another --out, or --overwrite"
        )
    try:
        return ClickTable.read(path)
    except OutputError:
        if not overwrite:
            raise
        return ClickTable(path)


def _is_of_somebody(path: Path) -> bool:
    """Whether it is neither a system file nor something that a killed run left behind."""
    return not path.name.startswith(".") and path.name != "lost+found"


def _is_whole(folder: Path, formats: Iterable[str]) -> bool:
    """Whether all files that every answer has, found or not, exist."""
    return all((folder / NAMES[each][0]).is_file() for each in formats)
