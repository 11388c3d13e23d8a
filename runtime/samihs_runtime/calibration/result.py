"""What a calibration found, and its files: ``summary.json``, ``clicks.csv``, ``accepted.png``.

No file names a patient or a study: studies are numbers, in the order in which they were given.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from samihs_runtime.calibration.normal_clicks import Sampling, Where
from samihs_runtime.calibration.trials import (
    Trial,
    accepted_share,
    share_on_others,
    threshold_for,
    threshold_interval,
)
from samihs_runtime.intervals import Estimate
from samihs_runtime.report import installed_version
from samihs_runtime.writers.report_json import write_report

SCHEMA, SCHEMA_VERSION = "samihs-calibration", 1
SUMMARY, CLICKS, PICTURE = "summary.json", "clicks.csv", "accepted.png"
FILES = (SUMMARY, CLICKS, PICTURE)
FEW_STUDIES = 20
"""With fewer, one head more or less changes much."""
LADDER = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Thresholds of the summary's table."""


@dataclass(frozen=True)
class Calibration:
    """Clicks in heads without hemorrhage, and the thresholds they are judged by."""

    bundle: str
    """Name and version."""
    bundle_id: str
    backend: str
    own: float
    """The bundle's own threshold."""
    threshold: float
    """The one that was tried: the bundle's own, or a given one."""
    share: float
    """Largest share of accepted clicks that is wanted."""
    sampling: Sampling
    trials: tuple[Trial, ...]
    refused: Mapping[float, float] = field(default_factory=dict)
    """Threshold -> share of the clicks on bleeds of 1 mL and more that it refuses, by the bundle's
    own evaluation; empty if that has none."""
    left_out: tuple[int, ...] = ()
    """Numbers of the studies that could not be clicked on; why would tell which they are."""

    @property
    def studies(self) -> int:
        """Number of studies that were clicked on."""
        return len({each.study for each in self.trials})

    @property
    def is_provisional(self) -> bool:
        """Whether the studies are too few for the suggested threshold to hold for others."""
        return self.studies < FEW_STUDIES

    @cached_property
    def suggested(self) -> float:
        """The lowest threshold that accepts no more than the wanted share of these clicks; never
        below the bundle's own, which was chosen on hemorrhages, too."""
        return max(threshold_for(self.trials, self.share), self.own)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the suggested threshold over studies; NaN for one study."""
        return threshold_interval(self.trials, self.share, self.own)

    def on_others(self) -> Estimate:
        """The share that the suggested threshold may accept in further studies."""
        return share_on_others(self.trials, self.share, self.own)

    def accepted(self, threshold: float) -> dict[str, Estimate]:
        """Share of the clicks accepted at a threshold: of all, and by where they are."""
        shares = {"all": accepted_share(self.trials, threshold)}
        for where in get_args(Where):
            shares[where] = accepted_share(self.trials, threshold, where)
        return shares

    def refuses(self, threshold: float) -> float | None:
        """Share of the clicks on bleeds of 1 mL and more that a threshold refuses by the bundle's
        own evaluation, between whose thresholds it is interpolated; None if that does not tell."""
        if not self.refused or not min(self.refused) <= threshold <= max(self.refused):
            return None
        known = sorted(self.refused.items())
        return float(np.interp(threshold, [each for each, _ in known], [each for _, each in known]))

    def by_study(self) -> list[tuple[int, int, int, int]]:
        """Number, slices, clicks and accepted clicks of each study, at the tried threshold."""
        rows = []
        for number in sorted({each.study for each in self.trials}):
            own = [each for each in self.trials if each.study == number]
            accepted = sum(each.accepted(self.threshold) for each in own)
            rows.append((number, len({each.click.index for each in own}), len(own), accepted))
        return rows

    def document(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "samihs", "version": installed_version()},
            "model": {"bundle": self.bundle, "id": self.bundle_id},
            "backend": self.backend,
            "options": asdict(self.sampling),
            "studies": self.studies,
            "provisional": self.is_provisional,
            "left_out": list(self.left_out),
            "clicks": len(self.trials),
            "score_threshold": self.threshold,
            "accepted": _plain(self.accepted(self.threshold)),
            "wanted_share": self.share,
            "bundle_threshold": self.own,
            "suggested_threshold": self.suggested,
            "suggested_interval": [_number(each) for each in self.interval],
            "accepted_at_suggested": {
                name: each.mean for name, each in self.accepted(self.suggested).items()
            },
            "accepted_in_other_studies": _plain({"all": self.on_others()})["all"],
            "accepted_by_study": [
                {"study": number, "slices": slices, "clicks": clicks, "accepted": accepted}
                for number, slices, clicks, accepted in self.by_study()
            ],
            "by_threshold": [
                {
                    "score_threshold": each,
                    "accepted": accepted_share(self.trials, each).mean,
                    "refused_bleeds_by_the_bundles_evaluation": self.refuses(each),
                }
                for each in sorted({*LADDER, self.threshold, self.suggested})
            ],
        }

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` and ``clicks.csv`` into a folder."""
        write_report(self.document(), folder / SUMMARY)
        with (folder / CLICKS).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("study", "slice", "x", "y", "where", "score", "possible", "accepted"))
            rows.writerows(_rows(self.trials, self.threshold))


def refused_by_evaluation(accuracy: Mapping[str, Any]) -> dict[float, float]:
    """Threshold -> share of the clicks on bleeds of 1 mL and more that it refuses, by a manifest's
    ``accuracy``; empty if that does not tell, as in older bundles."""
    try:
        rows = accuracy["by_threshold"]
        return {
            float(row["score_threshold"]): float(row["wrong_rejects_from_1_ml"]) for row in rows
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _rows(trials: Sequence[Trial], threshold: float) -> list[tuple[Any, ...]]:
    return [
        (
            each.study, each.click.index, each.click.x, each.click.y, each.click.where,
            f"{each.score:.4f}", int(each.possible), int(each.accepted(threshold)),
        )
        for each in trials
    ]  # fmt: skip


def _plain(shares: dict[str, Estimate]) -> dict[str, Any]:
    """Estimates as JSON holds them."""
    return {
        name: {
            "mean": _number(each.mean),
            "low": _number(each.low),
            "high": _number(each.high),
            "clicks": each.count,
        }
        for name, each in shares.items()
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
