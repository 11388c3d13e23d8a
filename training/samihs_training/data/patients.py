"""Slices of real patients for training: which patients, and what is drawn from a slice.

Slices with hemorrhage are trained on; prompts where nothing bleeds are placed outside it. A slice
is augmented at its stored size (or with oblong pixels made square), then windowed and resized as in
the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import DataError
from samihs_runtime.geometry import aspect_of
from samihs_runtime.segmentation import Prompt
from samihs_training.data.augmentation import Augmentation
from samihs_training.data.clicks import Mask, clearly_off, parts_of, random_click
from samihs_training.data.crops import enough_of
from samihs_training.data.folds import Folds, held_out
from samihs_training.data.framing import framed_mask, with_square_pixels
from samihs_training.data.sources import Drawing, Drawn
from samihs_training.data.targets import MIN_LESION_PIXELS
from samihs_training.data.volume_cache import CachedCase, load_volumes

Wanted = Literal["lesion", "slice"]
HEAD_ABOVE_HU = -200.0
"""Air is far below, fat (-100) and all other tissue above. A windowed picture's air is at the
window's lower end, which may lie higher; a JPEG's a little above that (NEAR_AIR_HU)."""
NEAR_AIR_HU = 5.0
BLOOD_HU = (45.0, 90.0)
"""What looks like clotted blood, but mostly is grey matter, vessels, or edges of bone."""


@dataclass(frozen=True, eq=False)
class Split:
    """Cases that are trained on, and cases that are not."""

    train: list[CachedCase]
    held_out: list[CachedCase]


def split_cases(cases: Sequence[CachedCase], folds: Folds, fold: int, origin: Path | str) -> Split:
    """The cases, split by fold; ``origin`` is what error messages call the folds.

    Raises:
        UsageError: there is no such fold.
        DataError: folds of other cases, a patient on both sides, or a side without hemorrhage.
    """
    kept_back = held_out(folds, fold, {case.name: case.patient for case in cases}, origin)
    split = Split(
        [case for case in cases if case.name not in kept_back],
        [case for case in cases if case.name in kept_back],
    )
    trained = {case.sha256: case.name for case in split.train}
    for case in split.held_out:
        if case.sha256 in trained:
            raise DataError(
                f"{origin}: {trained[case.sha256]} and {case.name} are one scan, and fold {fold} "
                "holds out one of them only: give both the same fold"
            )
    for side, where in ((split.train, "outside"), (split.held_out, "in")):
        if not any(case.bleeding for case in side):
            raise DataError(f"{origin}: no case {where} fold {fold} has a hemorrhage")
    return split


class PatientSlices:
    """Every slice with hemorrhage of some cases, in their order."""

    def __init__(
        self,
        cases: Sequence[CachedCase],
        *,
        size: int,
        wanted: Wanted = "lesion",
        augmentation: Augmentation | None = None,
    ) -> None:
        """``size``: rows and columns of a drawn slice; ``wanted``: what a prompt asks for."""
        self.size, self.wanted, self.augmentation = size, wanted, augmentation
        self.home = cases[0].home
        self.slices = [(case.name, index) for case in cases for index in case.bleeding]
        self.patients = [case.patient for case in cases for _ in case.bleeding]
        self._cases: dict[str, CachedCase] | None = None  # each process maps the files for itself

    def __len__(self) -> int:
        return len(self.slices)

    def draw(self, index: int, drawing: Drawing, rng: np.random.Generator) -> Drawn:
        """See :class:`~samihs_training.data.sources.Source`."""
        hu, mask, aspect = self._stored(index)
        varied = self.augmentation if drawing.vary else None
        if varied:  # a rotation of oblong pixels would shear the head
            hu, mask = with_square_pixels(hu, mask, aspect)
            hu, mask = varied(hu, mask, rng)
            aspect = 1.0
        window = window_of(hu, drawing.window)
        if varied and drawing.window.rule == "fixed":
            window = varied.window(window, rng)
        head_above = max(HEAD_ABOVE_HU, float(hu.min()) + NEAR_AIR_HU)
        frame = SliceFrame(hu.shape[0], hu.shape[1], self.size, aspect)
        hu, mask = frame.slice_to_model(hu), framed_mask(frame, mask)
        found = [mask] if self.wanted == "slice" and mask.any() else _lesions(mask)
        head = hu > head_above
        origin = None
        if drawing.crops is not None:
            origin = drawing.crops.draw(found, head, rng)
            part = drawing.crops.part(origin, self.size)
            hu, mask, head = hu[part], mask[part], head[part]
            found = [each[part] for each in found if enough_of(each, part, MIN_LESION_PIXELS)]
        asked = [_asked(hu, head, mask, found, drawing, rng) for _ in range(drawing.prompts)]
        return Drawn(hu, window, asked, mask, origin)

    def _stored(self, index: int) -> tuple[NDArray[np.float32], Mask, float]:
        """HU and mask as stored, and the height of a pixel divided by its width."""
        if self._cases is None:
            self._cases = {case.name: case for case in load_volumes(self.home)}
        name, place = self.slices[index]
        case = self._cases[name]
        mask = np.asarray(case.mask[place] > 0)
        return case.hu[place].astype(np.float32), mask, aspect_of(case.spacing_mm)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cases": None}


def _lesions(mask: Mask) -> list[Mask]:
    """The 8-connected lesions that a person would click on; the specks if there are no others.

    Empty if a small frame or a rotation has left nothing.
    """
    return parts_of(mask, MIN_LESION_PIXELS) or parts_of(mask)


def _asked(
    hu: NDArray[np.float32],
    head: Mask,
    mask: Mask,
    found: list[Mask],
    drawing: Drawing,
    rng: np.random.Generator,
) -> tuple[Prompt, Mask]:
    """A prompt on one of the lesions ``found``, or on something else, whose mask is empty."""
    if not found or rng.random() < drawing.negatives:
        free = clearly_off(mask)
        if free.any() or not found:
            click = random_click(_places(hu, head & free, free, rng), rng)
            return drawing.rule.elsewhere(click, free, rng), np.zeros_like(mask)
    wanted = found[rng.integers(len(found))]
    return drawing.rule(wanted, rng), wanted


def _places(hu: NDArray[np.float32], head: Mask, free: Mask, rng: np.random.Generator) -> Mask:
    """Where a prompt off any hemorrhage may lie: half the time on what has blood's values."""
    like = head & (hu > BLOOD_HU[0]) & (hu < BLOOD_HU[1])
    if rng.random() < 0.5 and like.any():
        return like
    for places in (head, free):
        if places.any():
            return places
    return np.ones_like(free)
