"""How much answers change when the same slices come from another scanner, archive or hand.

    python benchmarks/robustness.py [--bundle DIR] [--studies 20]

Phantom studies of unseen seeds, with one click on the deepest point of each lesion of a slice:
first unchanged, then once in each of the ``VARIATIONS``, which change the ground truth along with
the slice. Every click is thus its own reference, and a difference is due to the change alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import ACCEPTED, ALL, Tally
from numpy.typing import NDArray
from record import Record, command_line
from scipy import ndimage

from samihs_runtime.encoding.slice_frame import AIR_HU
from samihs_runtime.errors import SamihsError
from samihs_training.data.clicks import Mask, Point, deepest_click, random_click
from samihs_training.data.phantom import wear_8bit
from samihs_training.data.studies import StudySlice, StudySpec, is_bleed, study_slices
from samihs_training.evaluation.predictors import Predictor, bundle_predictor

REFERENCE = "as it is"
KEPT = 0.5
"""A slice is left out of a variation that keeps less than this share of a lesion's area."""


@dataclass(frozen=True, eq=False)
class View:
    """One slice as shown to the model, with its ground truth."""

    hu: NDArray[np.float32]
    """[rows, columns]."""
    lesions: tuple[Mask, ...]
    """Ground truth of each click, [rows, columns]."""
    clicks: tuple[Point, ...]
    """(column, row), one for each lesion."""


Variation = Callable[[View, np.random.Generator], View | None]
"""None if it would push a lesion off the slice."""


# ---- what scanners and archives do to values -----------------------------------------------------


def linear(view: View, rng: np.random.Generator, gain: float = 1.0, hu: float = 0.0) -> View:
    """All values times ``gain``, plus ``hu``: calibration, tube voltage."""
    return replace(view, hu=view.hu * np.float32(gain) + np.float32(hu))


def noisier(view: View, rng: np.random.Generator, hu: float) -> View:
    """Additional noise of standard deviation ``hu``, with the grain of a soft-tissue kernel."""
    grain = ndimage.gaussian_filter(rng.normal(size=view.hu.shape), 1.0)
    return replace(view, hu=view.hu + (hu / grain.std() * grain).astype(np.float32))


def softer(view: View, rng: np.random.Generator, sigma: float) -> View:
    """Blurred by ``sigma`` pixels: a smoother kernel."""
    return replace(view, hu=ndimage.gaussian_filter(view.hu, sigma))


def sharper(view: View, rng: np.random.Generator, amount: float) -> View:
    """Sharpened by adding ``amount`` times what a blur by one pixel removes: a harder kernel."""
    lost = view.hu - ndimage.gaussian_filter(view.hu, 1.0)
    return replace(view, hu=view.hu + np.float32(amount) * lost)


def pictured(view: View, rng: np.random.Generator, width: float, quality: float) -> View:
    """As an 8-bit picture of JPEG ``quality``, with a window centred on 40 HU, ``width`` wide."""
    return replace(view, hu=wear_8bit(view.hu, rng, 40.0, width, quality))


# ---- where things lie ----------------------------------------------------------------------------


def placed(
    view: View, rng: np.random.Generator, turn_deg: float = 0.0, zoom: float = 1.0
) -> View | None:
    """Rotated about the slice's centre and ``zoom`` times as large: another field of view."""
    angle, middle = np.deg2rad(turn_deg), (view.hu.shape[0] - 1) / 2
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    back = np.array([[cosine, -sine], [sine, cosine]])  # from new (row, column) to old
    offset = middle - back @ np.full(2, middle)
    move: Any = partial(ndimage.affine_transform, matrix=back, offset=offset, order=1)
    hu = move(view.hu, cval=AIR_HU)
    lesions = tuple(move(each.astype(np.float32), cval=0) > 0.5 for each in view.lesions)
    return _seen(view, hu, lesions, zoom)


def flipped(view: View, rng: np.random.Generator, axis: int) -> View | None:
    """Mirrored along ``axis``: 0 rows, 1 columns."""
    lesions = tuple(np.flip(each, axis) for each in view.lesions)
    return _seen(view, np.ascontiguousarray(np.flip(view.hu, axis)), lesions, 1.0)


def enlarged(view: View, rng: np.random.Generator, zoom: float) -> View | None:
    """The same field of view in ``zoom`` times as many rows and columns."""
    hu = ndimage.zoom(view.hu, zoom, order=1, mode="nearest", grid_mode=True)
    lesions = tuple(
        ndimage.zoom(each.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True) > 0.5
        for each in view.lesions
    )
    return _seen(view, hu, lesions, zoom)


def _seen(
    view: View, hu: NDArray[np.float32], lesions: tuple[Mask, ...], zoom: float
) -> View | None:
    """The moved view with new clicks; None if too much of a lesion has left the slice."""
    for before, after in zip(view.lesions, lesions, strict=True):
        if after.sum() < max(KEPT * zoom**2 * before.sum(), 1):
            return None
    return View(hu, lesions, tuple(map(deepest_click, lesions)))


# ---- where the hand is ---------------------------------------------------------------------------


def missed(view: View, rng: np.random.Generator, pixels: float) -> View:
    """Every click displaced by ``pixels``, whether it is still on the lesion or not."""
    angles = rng.uniform(0, 2 * np.pi, len(view.clicks))
    clicks = tuple(
        (float(round(x + pixels * np.cos(angle))), float(round(y + pixels * np.sin(angle))))
        for (x, y), angle in zip(view.clicks, angles, strict=True)
    )
    return replace(view, clicks=clicks)


def anywhere(view: View, rng: np.random.Generator) -> View:
    """Clicked on a random pixel of the lesion."""
    return replace(view, clicks=tuple(random_click(each, rng) for each in view.lesions))


VARIATIONS: Mapping[str, Variation] = {
    "5 HU lower": partial(linear, hu=-5),
    "5 HU higher": partial(linear, hu=5),
    "a tenth less contrast": partial(linear, gain=0.9),
    "a tenth more contrast": partial(linear, gain=1.1),
    "noise of 4 HU more": partial(noisier, hu=4),
    "noise of 8 HU more": partial(noisier, hu=8),
    "blurred by 1 pixel": partial(softer, sigma=1),
    "blurred by 2 pixels": partial(softer, sigma=2),
    "sharpened": partial(sharper, amount=1),
    "8 bits, window of 80 HU, JPEG 75": partial(pictured, width=80, quality=75),
    "8 bits, window of 150 HU, JPEG 75": partial(pictured, width=150, quality=75),
    "mirrored": partial(flipped, axis=1),
    "upside down": partial(flipped, axis=0),
    "turned by 12 degrees": partial(placed, turn_deg=12),
    "turned by 30 degrees": partial(placed, turn_deg=30),
    "field of view a fifth smaller": partial(placed, zoom=1.25),
    "field of view 1.4 times as wide": partial(placed, zoom=1 / 1.4),
    "256 x 256 pixels": partial(enlarged, zoom=0.5),
    "768 x 768 pixels": partial(enlarged, zoom=1.5),
    "clicked 2 pixels off": partial(missed, pixels=2),
    "clicked 4 pixels off": partial(missed, pixels=4),
    "clicked on any pixel of it": anywhere,
}


def measure(bundle: Path | None = None, backend: str = "auto", studies: int = 20) -> Record:
    """Dice and acceptance of every click in every variation."""
    tally = Tally()
    with bundle_predictor(bundle, backend) as predictor:
        for each in study_slices(StudySpec(studies, elsewhere=0), workers=2):
            judge(each, predictor, tally)
    settings = {"model": predictor.name, "studies": studies, "click": "deepest"}
    return Record("robustness", tally.series(), settings, weights=predictor.weights)


def judge(study_slice: StudySlice, predictor: Predictor, tally: Tally) -> None:
    """Click on each lesion of the slice, unchanged and in every variation."""
    targets = [each for each in study_slice.clicks if is_bleed(each)]
    original = View(
        study_slice.hu.astype(np.float32),
        tuple(each.mask for each in targets),
        tuple(each.click for each in targets),
    )
    for _ in targets:
        tally.click(study_slice.study, (ALL,))
    for number, (name, vary) in enumerate({REFERENCE: _unchanged, **VARIATIONS}.items()):
        rng = np.random.default_rng([study_slice.study, study_slice.index, number])
        view = vary(original, rng) if targets else None
        figures = [(np.nan, np.nan)] * len(targets) if view is None else _ask(view, predictor)
        for dice, accepted in figures:
            tally.note(name, "Dice", "", (ALL,), dice)
            tally.note(name, ACCEPTED, "", (ALL,), accepted)


def _ask(view: View, predictor: Predictor) -> list[tuple[float, float]]:
    """For each click, Dice to four digits, and whether its score is accepted."""
    threshold = predictor.score_threshold or 0.0
    figures = []
    answers = predictor.answer(np.rint(view.hu).astype(np.int16), view.clicks)
    for (mask, score), truth in zip(answers, view.lesions, strict=True):
        dice = 2 * float((mask & truth).sum() / (mask.sum() + truth.sum()))
        figures.append((round(dice, 4), float(score >= threshold)))
    return figures


def _unchanged(view: View, rng: np.random.Generator) -> View:
    return view


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--studies", type=int, default=20)
    options = parser.parse_args()
    try:
        record = measure(options.bundle, options.backend, options.studies)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
