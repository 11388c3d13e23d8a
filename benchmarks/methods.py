"""One click, many methods: the shipped model beside what one would use without it.

    python benchmarks/methods.py [--bundle DIR] [--studies 20]

Phantom studies of unseen seeds, one click on the deepest point of each lesion of a slice. The
classical methods are given what they need to look good: region growing a smoothed slice and several
tolerances, of which a reader may pick the best afterwards; the random walker and the watershed a
ring of background seeds. The samples are Dice and HD95 of each click; ``study`` says whose it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import Record, Series
from scipy import ndimage
from skimage.segmentation import random_walker, watershed

from samihs_training.data.studies import StudyCase, StudySpec, is_bleed, study_cases
from samihs_training.metrics import mask_metrics
from samihs_training.predictors import bundle_predictor

Mask = NDArray[np.bool_]
Click = tuple[float, float]
Method = Callable[[StudyCase, Click], Mask]
BLOOD_HU = (45.0, 95.0)
TOLERANCES_HU = (8.0, 12.0, 16.0)
"""About the clicked spot's own mean, for region growing."""
HALF = 64
"""Half side of the region that the seeded methods look at, pixels: about 60 mm across."""


def region_growing(case: StudyCase, click: Click, tolerance: float) -> Mask:
    """What hangs together about the click within the clicked spot's HU."""
    smooth = ndimage.median_filter(case.hu.astype(np.float32), 3)
    x, y = round(click[0]), round(click[1])
    spot = float(smooth[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean())
    labels, _ = ndimage.label(np.abs(smooth - spot) <= tolerance)
    return np.asarray(labels == labels[y, x]) if labels[y, x] else np.zeros(smooth.shape, bool)


def blood_window(case: StudyCase, click: Click) -> Mask:
    """What hangs together about the click within the HU of fresh blood."""
    smooth = ndimage.median_filter(case.hu.astype(np.float32), 3)
    labels, _ = ndimage.label((smooth >= BLOOD_HU[0]) & (smooth <= BLOOD_HU[1]))
    x, y = round(click[0]), round(click[1])
    return np.asarray(labels == labels[y, x]) if labels[y, x] else np.zeros(smooth.shape, bool)


def walker(case: StudyCase, click: Click) -> Mask:
    """scikit-image's random walker between the click and a ring about it."""
    return _seeded(
        case, click, lambda image, seeds: random_walker(image, seeds, beta=500, mode="cg_j") == 1
    )


def flooding(case: StudyCase, click: Click) -> Mask:
    """scikit-image's watershed on the gradient between the click and a ring about it."""
    return _seeded(
        case,
        click,
        lambda image, seeds: watershed(ndimage.gaussian_gradient_magnitude(image, 1), seeds) == 1,
    )


def _seeded(
    case: StudyCase,
    click: Click,
    method: Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.bool_]],
) -> Mask:
    x, y = round(click[0]), round(click[1])
    rows, columns = case.hu.shape
    top, left = max(y - HALF, 0), max(x - HALF, 0)
    window = (slice(top, min(y + HALF, rows)), slice(left, min(x + HALF, columns)))
    image = (np.clip(case.hu[window], -20, 100).astype(np.float32) + 20) / 120
    seeds = np.full(image.shape, 0, np.int32)
    seeds[[0, -1], :] = seeds[:, [0, -1]] = 2
    seeds[max(y - top - 1, 0) : y - top + 2, max(x - left - 1, 0) : x - left + 2] = 1
    mask = np.zeros(case.hu.shape, bool)
    mask[window] = method(image, seeds)
    return mask


CLASSICAL: Mapping[str, Method] = {
    **{
        f"region growing, {tolerance:g} HU": partial(region_growing, tolerance=tolerance)
        for tolerance in TOLERANCES_HU
    },
    "blood window": blood_window,
    "random walker": walker,
    "watershed": flooding,
}


def measure(bundle: Path | None = None, backend: str = "auto", studies: int = 20) -> Record:
    """Dice and HD95 of every method at every click."""
    taken: dict[tuple[str, str, str], list[float]] = {}
    with bundle_predictor(bundle, backend) as predictor:
        for case in study_cases(StudySpec(studies), workers=2):
            spacing = (case.spacing_mm, case.spacing_mm)
            targets = [each for each in case.clicks if is_bleed(each)]
            answers = predictor.answer(case.hu, [each.click for each in targets])
            for target, (mask, _) in zip(targets, answers, strict=True):
                masks = {f"SAMIHS, {predictor.name}": mask}
                masks |= {name: way(case, target.click) for name, way in CLASSICAL.items()}
                for kind in (target.kind.name.lower(), "all"):
                    taken.setdefault(("click", f"study, {kind}", ""), []).append(case.study)
                for name, each in masks.items():
                    metrics = mask_metrics(each, target.mask, spacing)
                    for kind in (target.kind.name.lower(), "all"):
                        taken.setdefault((name, f"Dice, {kind}", ""), []).append(metrics.dice)
                        taken.setdefault((name, f"HD95, {kind}", "mm"), []).append(metrics.hd95_mm)
    series = [Series(name, what, unit, tuple(v)) for (name, what, unit), v in taken.items()]
    return Record("methods", tuple(series), {"studies": studies, "click": "deepest"})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--studies", type=int, default=20)
    options = parser.parse_args()
    print(f"written  {measure(options.bundle, options.backend, options.studies).write()}")


if __name__ == "__main__":
    main()
