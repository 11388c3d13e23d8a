"""Targets on phantom slices: prompts to train with, and the masks they ask for.

A bleed's target is the clicked lesion in that slice: the 8-connected component of its type. The
membranes of a septated collection belong to it. Everything is numpy; masks are [rows, columns].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from samihs_runtime.segmentation import Prompt
from samihs_training.data.clicks import EIGHT, Mask, Point, clearly_off, parts_of, random_click
from samihs_training.data.phantom import BleedType, PhantomSlice, Tissue
from samihs_training.prompts import HandClick, PromptRule

HAND = HandClick()
MIN_LESION_PIXELS = 12  # below about 3 mm^2 a click is luck, for a person as well
LESIONS = 0.85
"""Share of the prompts of a base that are on a lesion, where the slice has one."""
HARD_NEGATIVES = (
    Tissue.CALCIFICATION, Tissue.VESSEL, Tissue.DURA, Tissue.TUMOUR, Tissue.METAL,
    Tissue.SCALP_HEMATOMA, Tissue.BONE, Tissue.MUSCLE, Tissue.CATHETER,
)  # fmt: skip
"""Structures that look like blood, or lie beside it."""
BRIGHT = 0.25
"""Share of the negatives in training that lie on the brightest tenth of brain, dura and vessels:
people click on what is bright, and in real heads that is mostly cortex beside bone."""
BRIGHTEST = 0.1
BRAIN = (
    Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.VENTRICLE, Tissue.CEREBELLUM,
    Tissue.BRAINSTEM, Tissue.EDEMA, Tissue.INFARCT,
)  # fmt: skip
"""Brain, and the fluid in and around it."""


@dataclass(frozen=True, eq=False)
class Target:
    """One prompt and the mask it asks for."""

    mask: Mask
    """Empty if the prompt is not on a bleed (and bleeds are asked for)."""
    prompt: Prompt
    kind: BleedType

    @property
    def click(self) -> Point:
        """(column, row) of the first point."""
        return self.prompt.points[0]


def lesions(
    sample: PhantomSlice, min_pixels: int = MIN_LESION_PIXELS
) -> list[tuple[BleedType, Mask]]:
    """Every lesion of a slice: its type and mask, the 8-connected components of each type."""
    kinds = [BleedType(kind) for kind in np.unique(sample.bleeds) if kind != BleedType.NONE]
    return [(kind, part) for kind in kinds for part in parts_of(sample.bleeds == kind, min_pixels)]


Lesions = list[tuple[BleedType, Mask]]


def structure_target(
    sample: PhantomSlice, found: Lesions, rng: np.random.Generator, rule: PromptRule = HAND
) -> Target:
    """A click on any structure: the base learns what belongs together on CT.

    Mostly a lesion, if there is one; otherwise the 8-connected component of one tissue under a
    random pixel of the head, rare tissues as often as common ones. ``found``: the slice's lesions,
    the same for all its clicks.
    """
    if found and rng.random() < LESIONS:
        kind, mask = found[rng.integers(len(found))]
        return Target(mask, rule(mask, rng), kind)
    present = [label for label in np.unique(sample.tissues) if label != Tissue.AIR]
    for _ in range(4):
        tissue = sample.tissues == rng.choice(present) if present else sample.tissues >= 0
        labels, _ = ndimage.label(tissue, structure=EIGHT)
        x, y = random_click(tissue, rng)
        mask = labels == labels[int(y), int(x)]
        if mask.sum() >= MIN_LESION_PIXELS:
            break
    return Target(mask, rule(mask, rng), BleedType.NONE)


def bleed_target(
    sample: PhantomSlice,
    found: Lesions,
    rng: np.random.Generator,
    negatives: float = 0.3,
    rule: PromptRule = HAND,
) -> Target:
    """A prompt on one of the slice's lesions, ``found``, or (share ``negatives``) on something
    else, whose mask is empty; on a lesion if nothing else is shown."""
    if not found or rng.random() < negatives:
        free = clearly_off(sample.bleeds > 0)
        if free.any() or not found:
            return _elsewhere(sample, free, rng, rule, BRIGHT)
    kind, mask = found[rng.integers(len(found))]
    return Target(mask, rule(mask, rng), kind)


def negative_target(
    sample: PhantomSlice, rng: np.random.Generator, rule: PromptRule = HAND
) -> Target:
    """A prompt off any bleed: half of them on a tissue that looks like one, the others anywhere in
    the head."""
    return _elsewhere(sample, clearly_off(sample.bleeds > 0), rng, rule)


def head_of(sample: PhantomSlice) -> Mask:
    """Everything but air and table."""
    return np.asarray((sample.tissues != Tissue.AIR) & (sample.tissues != Tissue.TABLE))


def _elsewhere(
    sample: PhantomSlice,
    free: Mask,
    rng: np.random.Generator,
    rule: PromptRule,
    bright: float = 0.0,
) -> Target:
    """A negative target within ``free``, a share ``bright`` of them on bright tissue."""
    allowed = head_of(sample) & free
    if bright and rng.random() < bright:
        spots = _bright(sample, free)
        allowed = spots if spots.any() else allowed
    elif rng.random() < 0.5:
        hard = allowed & np.isin(sample.tissues, HARD_NEGATIVES)
        present = np.unique(sample.tissues[hard])
        if present.size:
            allowed = hard & (sample.tissues == rng.choice(present))
    elif rng.random() < 0.8:
        inner = allowed & np.isin(sample.tissues, BRAIN)
        allowed = inner if inner.any() else allowed
    if not allowed.any():
        allowed = free
    empty = np.zeros(sample.tissues.shape, bool)
    prompt = rule.elsewhere(random_click(allowed, rng), free, rng)
    return Target(empty, prompt, BleedType.NONE)


def _bright(sample: PhantomSlice, free: Mask) -> Mask:
    """The brightest tenth of the soft tissue within the skull, in means of it over 3 x 3 pixels."""
    soft = np.isin(sample.tissues, (*BRAIN, Tissue.DURA, Tissue.VESSEL)) & free
    if not soft.any():
        return soft
    total = ndimage.uniform_filter(np.where(soft, sample.hu, 0).astype(np.float32), 3)
    smooth = total / np.maximum(ndimage.uniform_filter(soft.astype(np.float32), 3), 1e-3)
    return np.asarray(soft & (smooth >= np.quantile(smooth[soft], 1 - BRIGHTEST)))
