"""What ``samihs-infer`` shows: progress while it works, then one table.

No patient identity appears here: rows are numbers, and the reader has already scrubbed free text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from samihs_runtime.viewer_numbers import viewer_number
from samihs_runtime.wording import counted

if TYPE_CHECKING:
    from samihs_runtime.batch.table import TableRow
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries


def plain_console() -> Console:
    """A console that prints ``[/5mm]`` and ``:head:`` literally, in tables as well, since much of
    what is shown comes from headers and paths."""
    return Console(highlight=False, markup=False, emoji=False)


class Screen:
    """The terminal or a log file; without a terminal there is no spinner."""

    def __init__(self) -> None:
        self.console = plain_console()

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner with a line of text that the body may change."""
        with self.console.status(what) as status:
            yield status.update

    @contextmanager
    def counting(self, what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar that ``(done, total)`` moves; nothing if there is no terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(
            *columns,
            TextColumn(unit),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def say(self, text: str, style: str = "dim") -> None:
        """One line."""
        self._print(text, style)

    def backend(self, segmenter: Segmenter) -> None:
        """The model and the backend, and why that backend was chosen."""
        manifest = segmenter.bundle.manifest
        self._print(f"model    {manifest.name} {manifest.version}: {manifest.training_data}")
        self._print(f"backend  {segmenter.backend.name}: {segmenter.backend.description}")
        for reason in segmenter.reasons:
            self._print(f"         {reason}", "dim")

    def answered(self, row: TableRow, position: int, total: int) -> None:
        """One line for a log; on a terminal the bar shows it."""
        if not self.console.is_terminal:
            volume = f", {row.volume_ml} mL" if row.status == "found" else ""
            self._print(f"{position} of {total}: {row.id} {row.status}{volume}")

    def clicks(self, rows: list[TableRow], path: Path) -> None:
        """The table of ``--clicks``, and where it was written."""
        table = _folding_table("click", "result", "mL", "ABC/2 mL", "slices", "score", "s")
        for row in rows:
            slices = f"{row.first_slice} to {row.last_slice}" if row.last_slice else ""
            result = f"{row.status}: {row.reason or row.why}" if row.failed else row.status
            table.add_row(
                row.id, result, row.volume_ml, row.abc2_ml, slices, row.score, row.seconds
            )
        self.console.print(table)
        self._print(f"written  {path}")

    def opened(self, series: CTSeries, segmenter: Segmenter) -> None:
        """What was read, and what it will run on."""
        self._print(f"study    {_about(series)}")
        for note in (*series.notes, _viewer_numbers(series)):
            if note:
                self._print(f"         {note}", "dim")
        self.backend(segmenter)

    def result(
        self,
        series: CTSeries,
        lesion: Lesion,
        measurement: Measurement,
        report: Report,
        written: dict[str, Path],
    ) -> None:
        """The answer, its numbers, and where the files are."""
        self.console.print()
        for note in (*lesion.notes, *measurement.notes):
            self._print(note, "yellow" if not lesion.found else "dim")
        if lesion.found:
            self.console.print(_slice_table(series, lesion, measurement))
            self._print(_volume_line(measurement), "bold")
            for side, reason in zip(("below", "above"), lesion.stop_reasons, strict=False):
                self._print(f"ends {side}: {reason}", "dim")
        spent = "   ".join(f"{stage} {seconds:.2f} s" for stage, seconds in report.timings.items())
        self._print(f"time     {spent}")
        for name, path in written.items():
            self._print(f"written  {path}" if path.name == name else f"written  {name}: {path}")
        self._print(report.statement, "yellow")

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, soft_wrap=True)


def print_series(study: Path) -> None:
    """The table of ``--list``; it has UIDs if the numbers do not tell the series apart."""
    from samihs_runtime.study import list_series

    rows = list_series(study)
    numbers = [each.number for each in rows]
    repeated = len(set(numbers)) < len(numbers)
    headings = ("series", "kind", "slices", "description", "read", "why")
    table = _folding_table(*headings, *(["UID"] if repeated else []))
    for each in rows:
        number = "" if each.number is None else str(each.number)
        kind = each.kind if each.kernel == "unknown" else f"{each.kind}, {each.kernel}"
        read = "yes" if each.chosen else "if asked" if each.eligible else "no"
        texts = (number, kind, str(each.slices), each.description, read, each.reason)
        table.add_row(*texts, *([each.uid] if repeated else []))
    plain_console().print(table)


def _folding_table(*headings: str) -> Table:
    """A table that breaks what is too wide for the terminal, instead of cutting it."""
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _about(series: CTSeries) -> str:
    """Its size, and its description if there is one."""
    rows, columns = series.shape
    size = f"{counted(len(series), 'slice')} of {rows} x {columns}"
    return "; ".join(filter(None, (size, series.description)))


def _viewer_numbers(series: CTSeries) -> str:
    """The viewer's numbers of the first and the last slice; empty if the headers have none."""
    ends = dict.fromkeys((0, len(series) - 1))
    named = {index: viewer_number(series.sources[index]) for index in ends}
    if not all(named.values()):
        return ""
    return ", ".join(f"slice {index} is {number}" for index, number in named.items())


def _slice_table(series: CTSeries, lesion: Lesion, measurement: Measurement) -> Table:
    table = Table(title="hemorrhage by slice", title_justify="left")
    for heading in ("slice", "in a viewer", "area mm²", "extent mm", "mean HU", "score", "how"):
        table.add_column(heading, justify="left" if heading == "how" else "right")
    parts = {part.index: part for part in lesion.slices}
    for row in measurement.slices:
        part = parts[row.index]
        table.add_row(
            str(row.index),
            viewer_number(series.sources[row.index]),
            f"{row.area_mm2:.0f}",
            f"{row.extent_mm:.2f}",
            f"{row.mean_hu:.0f}",
            f"{part.score:.2f}",
            part.origin,
        )
    return table


def _volume_line(measurement: Measurement) -> str:
    line = f"volume   {measurement.volume_ml:.2f} mL"
    if measurement.abc2_ml is not None:
        line += f"   (ABC/2 {measurement.abc2_ml:.2f} mL)"
    if measurement.mean_hu is not None and measurement.sd_hu is not None:
        line += f"   {measurement.mean_hu:.0f} ± {measurement.sd_hu:.0f} HU"
    return line
