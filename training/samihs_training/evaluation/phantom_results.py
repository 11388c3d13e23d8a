"""The results of an evaluation on phantom studies: a row for each click and slice, and the metrics
over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from samihs_runtime.intervals import Estimate, estimate
from samihs_training.data.phantom import BleedType
from samihs_training.data.targets import MIN_LESION_PIXELS
from samihs_training.evaluation.score_trials import ScoreTrials, reliability

BLEEDS = frozenset(BleedType) - {BleedType.NONE}
KINDS = tuple(kind.name.lower() for kind in BleedType if kind in BLEEDS)
THRESHOLDS = tuple(step / 20 for step in range(21))
"""Of the summary's ``by_threshold``: 0 to 1."""
Table = dict[str, dict[str, Estimate]]
"""Type of bleeding, or "all" -> metric -> its mean."""


@dataclass(frozen=True)
class ClickResult:
    """One click: one row of ``clicks.csv``."""

    study: int
    slice: int
    kind: str
    """Type of the clicked bleed; "none" for a click where nothing bleeds."""
    x: float
    y: float
    area_mm2: float
    lesion_ml: float
    """Volume of the whole lesion in the study; 0 where nothing bleeds."""
    dice: float
    iou: float
    hd95_mm: float
    volume_error_ml: float
    """Error of the slice's volume: area error times the slice's extent."""
    score: float
    served_dice: float
    """Dice of what the runtime draws: nothing if the score is below the threshold."""


@dataclass(frozen=True)
class SliceResult:
    """A slice with hemorrhage: the union of the answers to one click on each lesion, against all
    its blood.

    Slices of patients are evaluated in the same way (``patients.py``, protocol "lesions").
    """

    study: int
    slice: int
    kind: str
    """Type of bleeding of the lesions and of the blood, or "all"."""
    lesions: int
    """Number of lesions, and so of clicks."""
    area_mm2: float
    """Area of all blood of this type, including specks that are not clicked on."""
    dice: float
    hd95_mm: float
    served_dice: float
    """Dice without the answers whose score is below the threshold."""


@dataclass(frozen=True)
class Evaluation:
    """All clicks and slices, and the metrics over them."""

    model: str
    studies: int
    clicks: tuple[ClickResult, ...]
    slices: tuple[SliceResult, ...]
    score_threshold: float
    """A score below it means that nothing bleeds there."""
    trials: ScoreTrials | None = None
    """Clicks in bleed-free studies, with the same threshold; None if there were none."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the predictor's weights; an export refuses figures of any other weights."""
    threshold_is: str = "measured"
    """Where the threshold comes from: ``measured``, ``given`` or ``not measured``."""

    @property
    def on_bleeds(self) -> list[ClickResult]:
        """Clicks on a lesion."""
        return [each for each in self.clicks if each.kind != "none"]

    @property
    def elsewhere(self) -> list[ClickResult]:
        """Clicks where nothing bleeds."""
        return [each for each in self.clicks if each.kind == "none"]

    def by_type(self) -> Table:
        """Dice (drawn and served), HD95 and volume error for each type of bleeding and "all"."""
        groups = {kind: [c for c in self.on_bleeds if c.kind == kind] for kind in KINDS}
        groups["all"] = self.on_bleeds
        names = ("dice", "iou", "hd95_mm", "volume_error_ml", "served_dice")
        return _estimates(groups, names)

    def by_slice(self) -> Table:
        """Dice (drawn and served) and HD95 of the slices, for each type of bleeding and "all"."""
        groups = {kind: [s for s in self.slices if s.kind == kind] for kind in (*KINDS, "all")}
        return _estimates(groups, ("dice", "hd95_mm", "served_dice"))

    def acceptance(self, threshold: float) -> dict[str, float]:
        """Shares of the clicks on bleeds, and of those elsewhere, that are accepted."""
        return {
            "found_on_bleeds": _share(self.on_bleeds, threshold),
            "accepted_elsewhere": _share(self.elsewhere, threshold),
        }

    def wrong_rejects(self, threshold: float, least_ml: float = 1.0) -> dict[str, float]:
        """Clicks on bleeds of at least ``least_ml`` mL, and the share that is rejected."""
        large = [each for each in self.on_bleeds if each.lesion_ml >= least_ml]
        return {"clicks": len(large), "share": 1 - _share(large, threshold)}

    def rejected_bleeds(self, threshold: float, least_ml: float = 1.0) -> dict[str, float]:
        """Bleeds of at least ``least_ml`` mL, and the share rejected where they are widest.

        Widest among the slices that were clicked on: a person would click there, and not on the
        last speck of a bleed.
        """
        large = [each for each in self.on_bleeds if each.lesion_ml >= least_ml]
        large.sort(key=lambda each: each.area_mm2)
        # The last entry of each bleed stays; its volume identifies it among those of its type.
        widest = {(each.study, each.kind, each.lesion_ml): each for each in large}
        share = _share(list(widest.values()), threshold)
        return {"bleeds": len(widest), "share": 1 - share}

    def by_threshold(self) -> list[dict[str, float]]:
        """What other thresholds refuse and accept: for whoever chooses one for other images."""
        return [
            {
                "score_threshold": each,
                "wrong_rejects_from_1_ml": self.wrong_rejects(each)["share"],
                "rejected_bleeds_from_1_ml": self.rejected_bleeds(each)["share"],
                "accepted_elsewhere": self.acceptance(each)["accepted_elsewhere"],
            }
            for each in THRESHOLDS
        ]

    def reliability(self) -> list[dict[str, float]]:
        """Mean IoU of clicks by score; where nothing bleeds, the IoU of every mask counts as 0."""
        worth = [each.iou if each.kind != "none" else 0.0 for each in self.clicks]
        return reliability([each.score for each in self.clicks], worth)

    def summary(self) -> dict[str, Any]:
        """For a JSON file or a manifest."""
        return {
            "model": self.model,
            "weights": dict(self.weights),
            "data": (
                "phantom studies (synthetic) of unseen seeds, one click per lesion of at least "
                f"{MIN_LESION_PIXELS} pixels and slice"
            ),
            "studies": self.studies,
            "clicks_on_bleeds": len(self.on_bleeds),
            "clicks_elsewhere": len(self.elsewhere),
            "score_threshold": self.score_threshold,
            "score_threshold_is": self.threshold_is,
            **self.acceptance(self.score_threshold),
            "wrong_rejects_from_1_ml": self.wrong_rejects(self.score_threshold),
            "rejected_bleeds_from_1_ml": self.rejected_bleeds(self.score_threshold),
            "bleed_free": None if self.trials is None else self.trials.summary(),
            "by_threshold": self.by_threshold(),
            "reliability": self.reliability(),
            "by_type": _plain(self.by_type()),
            "by_slice": _plain(self.by_slice()),
        }


def _estimates(
    groups: Mapping[str, Sequence[ClickResult | SliceResult]], names: Sequence[str]
) -> Table:
    """The metrics of these names, for each group that is not empty."""
    return {
        kind: {
            name: estimate([getattr(row, name) for row in rows], [row.study for row in rows])
            for name in names
        }
        for kind, rows in groups.items()
        if rows
    }


def _plain(table: Table) -> dict[str, dict[str, Any]]:
    """For JSON."""
    return {
        kind: {name: asdict(value) for name, value in row.items()} for kind, row in table.items()
    }


def _share(clicks: list[ClickResult], threshold: float) -> float:
    if not clicks:
        return float("nan")
    return sum(each.score >= threshold for each in clicks) / len(clicks)
