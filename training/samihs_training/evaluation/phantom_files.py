"""The files that an evaluation on phantom studies writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from samihs_runtime.writers.files import check_destination, staged_folder
from samihs_training.evaluation.phantom_results import ClickResult, Evaluation, SliceResult
from samihs_training.evaluation.score_trials import plot_reliability
from samihs_training.jsontext import json_text

FILES = ("clicks.csv", "slices.csv", "summary.json", "reliability.png")


def check_results(out: Path, *, overwrite: bool = False) -> None:
    """Raise the OutputError of :func:`write_results` before the work begins."""
    check_destination(out, FILES, overwrite=overwrite)


def write_results(evaluation: Evaluation, out: Path, *, overwrite: bool = False) -> None:
    """Write the :data:`FILES` to the folder ``out``, all or none.

    Raises:
        OutputError: ``out`` cannot be written, or holds such files and ``overwrite`` is false.
    """
    texts = {
        "clicks.csv": _table(ClickResult, evaluation.clicks),
        "slices.csv": _table(SliceResult, evaluation.slices),
        "summary.json": json_text(evaluation.summary()),
    }
    with staged_folder(out, FILES, overwrite=overwrite) as stage:
        for name, text in texts.items():
            (stage.folder / name).write_text(text, encoding="utf-8")
        plot_reliability(evaluation.reliability(), stage.folder / "reliability.png")


def _table(kind: type[Any], rows: Iterable[Any]) -> str:
    """CSV of dataclass rows, with the field names as its header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in rows)
    return text.getvalue()
