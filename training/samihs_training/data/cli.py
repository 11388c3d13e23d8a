"""``samihs-train check-data``, ``make-folds`` and ``check-folds``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from samihs_runtime.errors import DataError, one_line_errors
from samihs_training.data.cases.case import LAYOUTS, Layout, patients_of
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.labels import parsed
from samihs_training.data.checking import CaseReport, check_cases, check_labels
from samihs_training.data.folds import check_new, make_folds, read_slice_table, write_folds

_layout = click.option("--layout", type=click.Choice(LAYOUTS), help="[default: recognised]")
_labels = click.option(
    "--labels", help="Those of the masks that are hemorrhage, if they have others, such as 1,2,3."
)


@click.command("check-data")
@click.argument("root", type=click.Path(path_type=Path))
@_layout
@_labels
@one_line_errors
def check_data(root: Path, layout: Layout | None, labels: str | None) -> None:
    """List cases, slices and hemorrhage volumes of the data set ROOT, and everything wrong."""
    cases = find_cases(root, layout, parsed(labels))
    reports = list(check_cases(cases))
    Console().print(_table(reports))
    faults = [fault for report in reports for fault in report.faults]
    for fault in faults:
        click.echo(fault)
    if faults:
        bad = sum(bool(report.faults) for report in reports)
        raise DataError(f"{root}: {len(faults)} faults in {bad} of {len(reports)} cases, see above")
    check_labels(cases, (report.seen for report in reports))


@click.command("make-folds")
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_layout
@_labels
@click.option("--folds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Same seed, same folds.")
@one_line_errors
def make_folds_command(
    root: Path, out: Path, layout: Layout | None, labels: str | None, folds: int, seed: int
) -> None:
    """Write folds by patient, stratified by lesion volume, to the file OUT (JSON)."""
    check_new(out)  # fail before hours of reading
    cases = find_cases(root, layout, parsed(labels))
    patients = patients_of(cases)
    volumes, seen = {}, []
    for report in check_cases(cases):
        if report.faults:
            raise DataError(report.faults[0])
        volumes[report.name] = report.volume_ml
        seen.append(report.seen)
    check_labels(cases, seen)
    made = make_folds(volumes, patients, count=folds, seed=seed)
    write_folds(made, out)
    for fold in range(folds):
        members = made.cases(fold)
        count = len({patients[name] for name in members})
        mean = sum(volumes[name] for name in members) / count
        click.echo(f"fold {fold}: {count} patients, {mean:.1f} mL on average")
    click.echo(f"written to {out}")


@click.command("check-folds")
@click.argument("table", type=click.Path(path_type=Path))
@one_line_errors
def check_folds(table: Path) -> None:
    """Count the patients in several folds of the authors' TABLE (CSV: img, gt, fold, label)."""
    click.echo(read_slice_table(table).describe())


def _table(reports: list[CaseReport]) -> Table:
    table = Table("case", "slices", "bleeding", "mL", "faults")
    for each in reports:
        numbers = (str(each.slices), str(each.positive_slices), f"{each.volume_ml:.2f}")
        table.add_row(escape(each.name), *numbers, str(len(each.faults) or "-"))
    slices = sum(each.slices for each in reports)
    total = sum(each.volume_ml for each in reports)
    table.caption = f"{len(reports)} cases, {slices} slices, {total:.1f} mL"
    return table
