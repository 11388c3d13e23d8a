"""Evaluation on a data set of scans and masks: per slice and per patient, with intervals.

Only slices with hemorrhage are prompted; the others have nothing to point at and count as empty
predictions in a patient's volume. Two protocols:

- ``lesions``: one prompt on each 8-connected lesion of a slice at its stored size; the slice's mask
  is the union of the answers.
- ``authors``: as the SAMIHS authors test: slices resized to 512 x 512, one prompt for the whole
  foreground (its middle pixel in row order); the mask is where the sigmoid of the low-resolution
  logits, resized bilinearly, exceeds one half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samihs_runtime.clicked_parts import clicked_parts
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import DataError, UsageError
from samihs_runtime.intervals import Estimate, estimate
from samihs_runtime.segmentation import Prompt
from samihs_training.data.cases.case import CaseFiles, Volume, patients_of
from samihs_training.data.checking import read_checked
from samihs_training.data.clicks import Mask, parts_of
from samihs_training.data.framing import framed_mask
from samihs_training.evaluation.predictors import Ask, Predictor
from samihs_training.evaluation.surface import hausdorff_95, rowwise_hausdorff, surface_dice
from samihs_training.prompts import PromptRule, prompt_rule
from samihs_training.stages.corrections import next_click

Protocol = Literal["lesions", "authors"]
AUTHORS_SIZE = 512
NSD_TOLERANCE_MM = 1.0
NSD_TOLERANCE_PX = 2.0
WORST = 5
"""Slices of which the pixels are kept, for pictures: those of all would fill the memory."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one slice or one patient; NaN where a metric is undefined."""

    dice: float
    iou: float
    sensitivity: float
    """Share of the true foreground that was found."""
    specificity: float
    """Share of the true background that was predicted as background."""
    hd95_mm: float
    """For a patient: in three dimensions."""
    hd95_px: float
    """For a patient: mean over the slices, as are ``nsd_px`` and ``rowwise_hausdorff``."""
    nsd_mm: float
    """Normalised surface Dice at NSD_TOLERANCE_MM."""
    nsd_px: float
    """Normalised surface Dice at NSD_TOLERANCE_PX."""
    volume_error_ml: float
    """Predicted minus true."""
    rowwise_hausdorff: float
    """The authors' "HD", which is not a distance between outlines (``surface.py``)."""


METRICS = tuple(each.name for each in fields(Scores))


@dataclass(frozen=True, eq=False)
class SliceResult:
    """One prompted slice."""

    patient: str
    """Name of the case."""
    index: int
    scores: Scores


@dataclass(frozen=True, eq=False)
class Answered:
    """A prompted slice with its pixels, each [rows, columns]."""

    result: SliceResult
    hu: NDArray[np.float32]
    truth: Mask
    predicted: Mask
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, eq=False)
class DataEvaluation:
    """All slices and patients, and what was evaluated on them how."""

    model: str
    protocol: Protocol
    prompt: str
    clicks: int
    slices: tuple[SliceResult, ...]
    patients: dict[str, Scores]
    """Case -> scores of its volume."""
    bleed_free: int
    """Cases without hemorrhage: nothing was asked there, and no metric includes them."""
    worst: tuple[Answered, ...]
    """The WORST slices by Dice."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the predictor's weights; an export refuses figures of any other weights."""
    patient_of: Mapping[str, str] = field(default_factory=dict)
    """Case -> patient; a case that is not there is a patient by itself."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Which cases (``chosen_cases.py``): counts and hashes, without paths and names."""

    def by_slice(self) -> dict[str, tuple[Estimate, float]]:
        """Metric -> mean over slices, its interval over patients, and the SD over slices."""
        names = [self._patient(each.patient) for each in self.slices]
        return _estimates([each.scores for each in self.slices], names)

    def by_patient(self) -> dict[str, tuple[Estimate, float]]:
        """Metric -> mean over cases, its interval over patients, and the SD over cases."""
        names = [self._patient(name) for name in self.patients]
        return _estimates(list(self.patients.values()), names)

    @property
    def patient_count(self) -> int:
        """Number of patients; below that of the cases if some were scanned again."""
        return len({self._patient(name) for name in self.patients})

    def _patient(self, case: str) -> str:
        return self.patient_of.get(case, case)


def evaluate_data(
    predictor: Predictor,
    cases: Iterable[CaseFiles],
    *,
    protocol: Protocol = "lesions",
    prompt: str = "deepest",
    clicks: int = 1,
    seed: int = 0,
    data: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> DataEvaluation:
    """Prompt every slice with hemorrhage; the ``authors`` protocol ignores ``prompt``.

    ``clicks`` above 1 adds corrective clicks, each in the largest error of the previous answer,
    whose logits are the prior of the next. ``data`` is recorded as it is. ``progress(done)`` is
    called after each case.

    Raises:
        DataError: a case is faulty, or no case has hemorrhage.
        UsageError: the predictor takes clicks only, or ``clicks`` is below 1.
    """
    if predictor.ask is None:
        raise UsageError(f"{predictor.name} takes clicks only: it cannot be asked other prompts")
    if clicks < 1:
        raise UsageError(f"clicks: {clicks}; expected 1 or more")
    prompt = "middle" if protocol == "authors" else prompt
    asking = _Asking(
        predictor.ask, prompt_rule(prompt), protocol, clicks, np.random.default_rng(seed)
    )
    slices: list[SliceResult] = []
    patients: dict[str, Scores] = {}
    worst: list[Answered] = []
    listed = list(cases)
    for done, case in enumerate(listed, 1):
        volume = read_checked(case)
        found = asking.slices(case.name, volume)
        if found:
            patients[case.name] = _patient_scores(volume, found, protocol)
            slices += [each.result for each in found]
            worst = sorted([*worst, *found], key=lambda each: each.result.scores.dice)[:WORST]
        progress(done)
    if not slices:
        raise DataError("no case has a hemorrhage to point at")
    return DataEvaluation(
        predictor.name, protocol, prompt, clicks, tuple(slices), patients,
        len(listed) - len(patients), tuple(worst), predictor.weights, patients_of(listed),
        data or {},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Asking:
    """How the slices of a volume are prompted."""

    ask: Ask
    rule: PromptRule
    protocol: Protocol
    clicks: int
    rng: np.random.Generator

    def slices(self, patient: str, volume: Volume) -> list[Answered]:
        results = []
        for index in np.flatnonzero((volume.labels > 0).any((1, 2))):
            hu, truth, spacing = _framed(volume, int(index), self.protocol)
            if not truth.any():
                continue  # a speck that is lost in a smaller frame
            parts = [truth] if self.protocol == "authors" else parts_of(truth)
            answers = [self._answer(hu, spacing, part) for part in parts]
            predicted = np.logical_or.reduce([mask for mask, _ in answers])
            scores = scores_of(predicted, truth, spacing, float(volume.extents_mm[index]))
            prompts = tuple(prompt for _, prompt in answers)
            result = SliceResult(patient, int(index), scores)
            results.append(Answered(result, hu, truth, predicted, prompts))
        return results

    def _answer(
        self, hu: NDArray[np.float32], spacing: tuple[float, float], wanted: Mask
    ) -> tuple[Mask, Prompt]:
        prompt, prior = self.rule(wanted, self.rng), None
        for further in range(self.clicks):
            reply = self.ask(hu, prompt, prior, None if self.protocol == "authors" else spacing)
            if self.protocol == "authors":
                mask = authors_mask(reply.logits)
            else:  # as samihs-infer draws it
                mask = clicked_parts(reply.mask, prompt)
            if further + 1 < self.clicks:
                prompt, prior = next_click(prompt, mask, wanted), reply.logits
        return mask, prompt


def scores_of(
    predicted: Mask, truth: Mask, spacing_mm: tuple[float, float], extent_mm: float
) -> Scores:
    """Metrics of one slice [rows, columns]; ``truth`` is not empty."""
    pixel = (1.0, 1.0)
    voxel_ml = spacing_mm[0] * spacing_mm[1] * extent_mm / 1000
    return Scores(
        **_overlap(predicted, truth),
        hd95_mm=hausdorff_95(predicted, truth, spacing_mm),
        hd95_px=hausdorff_95(predicted, truth, pixel),
        nsd_mm=surface_dice(predicted, truth, spacing_mm, NSD_TOLERANCE_MM),
        nsd_px=surface_dice(predicted, truth, pixel, NSD_TOLERANCE_PX),
        volume_error_ml=(int(predicted.sum()) - int(truth.sum())) * voxel_ml,
        rowwise_hausdorff=rowwise_hausdorff(predicted, truth),
    )


def authors_mask(logits: NDArray[np.float32], size: int = AUTHORS_SIZE) -> Mask:
    """[size, size]: sigmoid first, then resized bilinearly, then thresholded at one half."""
    low = torch.from_numpy(np.ascontiguousarray(logits, np.float32))[None, None].sigmoid()
    high = F.interpolate(low, size=(size, size), mode="bilinear", align_corners=False)
    return np.asarray(high[0, 0].numpy() > 0.5)


def _framed(
    volume: Volume, index: int, protocol: Protocol
) -> tuple[NDArray[np.float32], Mask, tuple[float, float]]:
    """HU, truth and spacing of a slice, at its own size or in the authors' frame."""
    hu = volume.hu[index].copy()  # a view would keep the whole volume in memory
    truth = volume.labels[index] > 0
    frame = SliceFrame(hu.shape[0], hu.shape[1], AUTHORS_SIZE)
    if protocol == "lesions" or frame.identity:
        return hu, truth, volume.spacing_mm
    shrink = max(hu.shape) / AUTHORS_SIZE
    spacing = (volume.spacing_mm[0] * shrink, volume.spacing_mm[1] * shrink)
    return frame.slice_to_model(hu), framed_mask(frame, truth), spacing


def _overlap(predicted: Mask, truth: Mask) -> dict[str, float]:
    both = int((predicted & truth).sum())
    areas = int(predicted.sum()), int(truth.sum())
    background = truth.size - areas[1]
    return {
        "dice": 2 * both / sum(areas),
        "iou": both / (sum(areas) - both),
        "sensitivity": both / areas[1],
        "specificity": 1 - (areas[0] - both) / background if background else float("nan"),
    }


def _patient_scores(volume: Volume, found: list[Answered], protocol: Protocol) -> Scores:
    """Overlap and distances in mm over the whole volume; metrics in pixels are slice means."""
    shape = (len(volume.hu), *found[0].truth.shape)
    predicted, truth = np.zeros(shape, bool), np.zeros(shape, bool)
    for each in found:
        index = each.result.index
        predicted[index], truth[index] = each.predicted, each.truth
    _, _, in_plane = _framed(volume, found[0].result.index, protocol)
    # MONAI takes a single slice spacing: the mean where it is uneven.
    spacing = (float(volume.extents_mm.mean()), *in_plane)

    def mean(name: str) -> float:
        values = np.array([getattr(each.result.scores, name) for each in found])
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else float("nan")

    return Scores(
        **_overlap(predicted, truth),
        hd95_mm=hausdorff_95(predicted, truth, spacing),
        hd95_px=mean("hd95_px"),
        nsd_mm=surface_dice(predicted, truth, spacing, NSD_TOLERANCE_MM),
        nsd_px=mean("nsd_px"),
        volume_error_ml=sum(each.result.scores.volume_error_ml for each in found),
        rowwise_hausdorff=mean("rowwise_hausdorff"),
    )


def _estimates(scores: list[Scores], patients: list[str]) -> dict[str, tuple[Estimate, float]]:
    _, numbers = np.unique(patients, return_inverse=True)
    table = {}
    for name in METRICS:
        values = np.array([getattr(each, name) for each in scores], np.float64)
        known = values[~np.isnan(values)]
        deviation = float(known.std(ddof=1)) if known.size > 1 else float("nan")
        table[name] = estimate(values.tolist(), numbers.tolist()), deviation
    return table
