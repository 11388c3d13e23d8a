"""Logs of a run: CSV and TensorBoard files while it trains, curves when it ends."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from samihs_training.output import output_path

Row = TypeVar("Row", "StepReport", "ValidationReport")


@dataclass(frozen=True)
class StepReport:
    """What one step did, for the progress bar and the log."""

    stage: str
    step: int
    minutes: float
    """Spent in this stage, earlier runs included."""
    steps: int
    """Number of steps of the whole stage."""
    loss: float
    iou: float
    """Mean IoU of the first answers to the prompts that have a mask."""
    dice: float
    """Mean Dice of the same answers."""
    learning_rate: float
    samples_per_second: float
    """Clicks answered, over all processes."""


@dataclass(frozen=True)
class ValidationReport:
    """Results on the held-out slices, after the first click."""

    stage: str
    step: int
    loss: float
    iou: float
    dice: float
    best: bool
    """Whether no earlier validation of the stage had a higher Dice."""


LOGS: dict[type, str] = {StepReport: "log.csv", ValidationReport: "validation.csv"}


class RunLog:
    """Appends rows to the run's CSV files and TensorBoard events; a context manager.

    A run is resumed at an earlier step than the one it had reached: rows of that stage after
    ``step`` are dropped first, so that no step appears twice. ``writes``: true in one process of a
    run; in the others the log does nothing.
    """

    def __init__(self, out: Path, stage: str, step: int, *, writes: bool = True) -> None:
        self.writes = writes
        self.out = out
        self.stage = stage
        self.step = step

    def __enter__(self) -> RunLog:
        if not self.writes:
            return self
        from torch.utils.tensorboard import SummaryWriter

        self.files: dict[type, Any] = {}
        for kind, name in LOGS.items():
            path = self.out / name
            _drop_later(path, self.stage, self.step)
            fresh = not path.exists()
            self.files[kind] = path.open("a", newline="", buffering=1)
            if fresh:
                csv.writer(self.files[kind]).writerow([each.name for each in fields(kind)])
        folder = self.out / "tensorboard" / self.stage
        self.board: Any = SummaryWriter(str(folder), purge_step=self.step + 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.writes:
            for file in self.files.values():
                file.close()
            self.board.close()

    def write(self, row: StepReport | ValidationReport) -> None:
        """Write one row, and its metrics as TensorBoard scalars."""
        if not self.writes:
            return
        values = asdict(row)
        csv.writer(self.files[type(row)]).writerow(values.values())
        group = "train" if isinstance(row, StepReport) else "validation"
        for name in ("loss", "iou", "dice", "learning_rate", "samples_per_second"):
            if name in values:
                self.board.add_scalar(f"{group}/{name}", values[name], row.step)


def read_log(out: Path, kind: type[Row]) -> list[Row]:
    """The rows of a run's log, in order; none if there is no file."""
    path = out / LOGS[kind]
    if not path.exists():
        return []
    convert: dict[str, Any] = {
        "str": str, "int": int, "float": float, "bool": lambda text: text == "True",
    }  # fmt: skip
    types = {each.name: convert[str(each.type)] for each in fields(kind)}
    with path.open(newline="") as file:
        return [
            kind(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(file)
        ]


def plot_curves(out: Path) -> Path:
    """``curves.png``: loss and Dice of each stage over its steps, validation as dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, checks = read_log(out, StepReport), read_log(out, ValidationReport)
    stages = list(dict.fromkeys(row.stage for row in steps))
    across = max(len(stages), 1)
    figure = Figure(figsize=(5 * across, 6))
    # Margins by hand: to have them laid out takes as long as all the rest.
    figure.subplots_adjust(0.65 / (5 * across), 0.09, 1 - 0.15 / (5 * across), 0.94, 0.25, 0.25)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, across, squeeze=False)
    for column, stage in enumerate(stages):
        trained = [row for row in steps if row.stage == stage]
        checked = [row for row in checks if row.stage == stage]
        for axis, name in zip(axes[:, column], ("loss", "dice"), strict=True):
            at, values = [row.step for row in trained], [getattr(row, name) for row in trained]
            axis.plot(at, values, color="0.8", linewidth=0.7)
            axis.plot(at, _smoothed(values), label="training, smoothed")
            if checked:
                y = [getattr(row, name) for row in checked]
                axis.plot([row.step for row in checked], y, "o", markersize=4, label="validation")
            axis.set_xlabel("step")
            axis.set_ylabel("loss" if name == "loss" else "Dice of clicks on a lesion")
            axis.legend()
        axes[0, column].set_title(f"stage {stage}")
    path = out / "curves.png"
    figure.savefig(path, dpi=100)
    return path


def _smoothed(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Exponential moving average over about ``share`` of the values; a NaN leaves it unchanged."""
    keep, smooth, mean = 1 - 1 / max(1.0, share * len(values)), [], float("nan")
    for value in values:
        if value == value:
            mean = value if mean != mean else keep * mean + (1 - keep) * value
        smooth.append(mean)
    return smooth


def _drop_later(path: Path, stage: str, step: int) -> None:
    """Keep only the rows that a run resumed after ``step`` will not write again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    whole = [row for row in rows if len(row) == len(header)]  # the last may be cut off
    kept = [row for row in whole if row[0] != stage or int(row[1]) <= step]
    with output_path(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
