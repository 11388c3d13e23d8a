"""What a click on a slice means: the mask that is wanted, and clicks to train it with.

A bleed's target is the clicked lesion in that slice: the 8-connected component of its type. The
membranes of a septated collection belong to it. Everything is numpy; masks are [rows, columns].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samihs_training.data.phantom import BleedType, PhantomSlice, Tissue

Mask = NDArray[np.bool_]
EIGHT = np.ones((3, 3))
MIN_LESION_PIXELS = 12  # below about 3 mm^2 a click is luck, for a person as well
HARD_NEGATIVES = (
    Tissue.CALCIFICATION, Tissue.VESSEL, Tissue.DURA, Tissue.TUMOUR, Tissue.METAL,
    Tissue.SCALP_HEMATOMA, Tissue.BONE, Tissue.MUSCLE, Tissue.CATHETER,
)  # fmt: skip
"""Structures that look like blood, or lie beside it."""


@dataclass(frozen=True, eq=False)
class Target:
    """One click and the mask it asks for."""

    mask: Mask
    """Empty where the click is on no bleed (and bleeds are what is asked for)."""
    click: tuple[float, float]
    """(column, row)."""
    kind: BleedType


def lesions(
    sample: PhantomSlice, min_pixels: int = MIN_LESION_PIXELS
) -> list[tuple[BleedType, Mask]]:
    """Every lesion of a slice: its type and mask, the 8-connected components of each type."""
    found: list[tuple[BleedType, Mask]] = []
    for kind in BleedType:
        if kind is BleedType.NONE or not (sample.bleeds == kind).any():
            continue
        labels, count = ndimage.label(sample.bleeds == kind, structure=EIGHT)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        found += [
            (kind, labels == part) for part in range(1, count + 1) if sizes[part] >= min_pixels
        ]
    return found


def deepest_click(mask: Mask) -> tuple[float, float]:
    """(x, y) of the deepest interior pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # 20 times cheaper than whole
    depth = ndimage.distance_transform_edt(np.pad(box, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), box.shape)
    return float(column + columns[0]), float(row + rows[0])


def random_click(mask: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """(x, y) of a random pixel of the mask."""
    flat = np.flatnonzero(mask)
    row, column = np.unravel_index(int(rng.choice(flat)), mask.shape)
    return float(column), float(row)


def training_click(mask: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """A click as a person makes it: inside, mostly well inside, off by a pixel or two."""
    if rng.random() < 0.3:
        x, y = deepest_click(mask)
    else:
        x, y = random_click(mask, rng)
    jitter = rng.normal(0, 1.0, 2)
    column, row = round(x + jitter[0]), round(y + jitter[1])
    rows, columns = mask.shape
    inside = 0 <= row < rows and 0 <= column < columns and mask[row, column]
    return (float(column), float(row)) if inside else (x, y)


Lesions = list[tuple[BleedType, Mask]]


def structure_target(sample: PhantomSlice, found: Lesions, rng: np.random.Generator) -> Target:
    """A click on any structure: the base learns what belongs together on CT.

    Mostly a lesion, where there is one; else the 8-connected component of one tissue
    under a random pixel of the head, the rare tissues as often as the common. ``found``: the
    slice's lesions, which all its clicks share.
    """
    if found and rng.random() < 0.7:
        kind, mask = found[rng.integers(len(found))]
        return Target(mask, training_click(mask, rng), kind)
    present = [label for label in np.unique(sample.tissues) if label != Tissue.AIR]
    for _ in range(4):
        tissue = sample.tissues == rng.choice(present) if present else sample.tissues >= 0
        labels, _ = ndimage.label(tissue, structure=EIGHT)
        x, y = random_click(tissue, rng)
        mask = labels == labels[int(y), int(x)]
        if mask.sum() >= MIN_LESION_PIXELS:
            break
    return Target(mask, training_click(mask, rng), BleedType.NONE)


def bleed_target(
    sample: PhantomSlice, found: Lesions, rng: np.random.Generator, negatives: float = 0.3
) -> Target:
    """A click on one of the slice's lesions, ``found``, or (share ``negatives``) on something
    else, whose mask is empty."""
    if found and rng.random() >= negatives:
        kind, mask = found[rng.integers(len(found))]
        return Target(mask, training_click(mask, rng), kind)
    return negative_target(sample, rng)


def negative_target(sample: PhantomSlice, rng: np.random.Generator) -> Target:
    """A click on no bleed: half on what looks like one, else anywhere in the head.

    Three pixels around a bleed are left out: there a click is not clearly off it.
    """
    near = ndimage.binary_dilation(sample.bleeds > 0, iterations=3)
    allowed = (sample.tissues != Tissue.AIR) & (sample.tissues != Tissue.TABLE) & ~near
    if rng.random() < 0.5:
        hard = allowed & np.isin(sample.tissues, HARD_NEGATIVES)
        present = np.unique(sample.tissues[hard])
        if present.size:
            allowed = hard & (sample.tissues == rng.choice(present))
    elif rng.random() < 0.8:
        inner = allowed & np.isin(sample.tissues, _BRAIN)
        allowed = inner if inner.any() else allowed
    if not allowed.any():
        allowed = ~near
    empty = np.zeros(sample.tissues.shape, bool)
    return Target(empty, random_click(allowed, rng), BleedType.NONE)


_BRAIN = (
    Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.VENTRICLE, Tissue.CEREBELLUM,
    Tissue.BRAINSTEM, Tissue.EDEMA, Tissue.INFARCT,
)  # fmt: skip
