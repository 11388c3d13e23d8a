"""One click, many methods: the shipped model beside what one would use without it.

    python benchmarks/methods.py [--bundle DIR] [--studies 20]
        [--base BASE --checkpoint NAME=ADAPTERS ...] [--unet FILE | --unet-minutes N]

Phantom studies of unseen seeds, one click on the deepest point of each lesion of a slice. The
classical methods are given what they need to look good: region growing a smoothed slice and several
tolerances, of which a reader may pick the best afterwards; the random walker and the watershed a
ring of background seeds.

Other ways to adapt the same base come from ``samihs-train compare``, each run by its name; they are
a result of their own, ``methods-adaptation``::

    --base models/vit_mini/base.safetensors
    --checkpoint "frozen base, trained decoder=OUT/runs/method=decoder seed=1/adapters.safetensors"
    --checkpoint "LoRA=OUT/runs/method=lora seed=1/adapters.safetensors"

The U-Net comes from ``unet.py``, or is trained here for ``--unet-minutes``. The samples are Dice,
HD95 and volume error of each click; ``study`` says whose it is.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import unet
from accuracy import Tally
from numpy.typing import NDArray
from record import Record, command_line
from scipy import ndimage
from skimage.segmentation import random_walker, watershed
from unet import UNet, component_at

from samihs_runtime.errors import SamihsError, UsageError
from samihs_training.data.studies import StudySlice, StudySpec, is_bleed, study_slices
from samihs_training.evaluation.predictors import Predictor, bundle_predictor, checkpoint_predictor

Mask = NDArray[np.bool_]
Click = tuple[float, float]
Slice = NDArray[np.generic]
"""[rows, columns], HU."""
Method = Callable[[Slice, Click], Mask]
BLOOD_HU = (45.0, 95.0)
TOLERANCES_HU = (8.0, 12.0, 16.0)
"""About the clicked spot's own mean, for region growing."""
HALF = 64
"""Half side of the region that the seeded methods look at, pixels: about 60 mm across. They cannot
take the rest of a longer bleed; a wider one takes in more that is like blood."""


def region_growing(hu: Slice, click: Click, tolerance: float) -> Mask:
    """What hangs together about the click within the clicked spot's HU."""
    smooth = ndimage.median_filter(hu.astype(np.float32), 3)
    x, y = round(click[0]), round(click[1])
    spot = float(smooth[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean())
    labels, _ = ndimage.label(np.abs(smooth - spot) <= tolerance)
    return np.asarray(labels == labels[y, x]) if labels[y, x] else np.zeros(smooth.shape, bool)


def blood_window(hu: Slice, click: Click) -> Mask:
    """What hangs together about the click within the HU of fresh blood."""
    smooth = ndimage.median_filter(hu.astype(np.float32), 3)
    labels, _ = ndimage.label((smooth >= BLOOD_HU[0]) & (smooth <= BLOOD_HU[1]))
    x, y = round(click[0]), round(click[1])
    return np.asarray(labels == labels[y, x]) if labels[y, x] else np.zeros(smooth.shape, bool)


def walker(hu: Slice, click: Click) -> Mask:
    """scikit-image's random walker between the click and a ring about it."""
    with warnings.catch_warnings():
        # Probabilities a little below 0 or above 1, as far as its solver went: the larger one wins.
        warnings.filterwarnings("ignore", "The probability range", UserWarning)
        return _seeded(
            hu,
            click,
            lambda image, seeds: random_walker(image, seeds, beta=500, mode="cg_j") == 1,
        )


def flooding(hu: Slice, click: Click) -> Mask:
    """scikit-image's watershed on the gradient between the click and a ring about it."""
    return _seeded(
        hu,
        click,
        lambda image, seeds: watershed(ndimage.gaussian_gradient_magnitude(image, 1), seeds) == 1,
    )


def _seeded(
    hu: Slice,
    click: Click,
    method: Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.bool_]],
) -> Mask:
    x, y = round(click[0]), round(click[1])
    rows, columns = hu.shape
    top, left = max(y - HALF, 0), max(x - HALF, 0)
    window = (slice(top, min(y + HALF, rows)), slice(left, min(x + HALF, columns)))
    image = (np.clip(hu[window].astype(np.float32), -20, 100) + 20) / 120
    seeds = np.full(image.shape, 0, np.int32)
    seeds[[0, -1], :] = seeds[:, [0, -1]] = 2
    seeds[max(y - top - 1, 0) : y - top + 2, max(x - left - 1, 0) : x - left + 2] = 1
    mask = np.zeros(hu.shape, bool)
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


@dataclass(frozen=True)
class Learned:
    """Trained models beside the bundle."""

    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Name -> adapter checkpoint, each on ``base``."""
    base: Path | None = None
    unet: UNet | None = None

    def __post_init__(self) -> None:
        if self.adapters and self.base is None:
            raise UsageError(
                "--checkpoint needs --base: the base that the adapters were trained on"
            )


NOTHING = Learned()
METHODS, ADAPTATION = "methods", "methods-adaptation"
"""With checkpoints it is a comparison of ways to adapt, and a result of its own: it needs runs over
one base, which take longer than all else here."""
WANTED = {
    METHODS: {
        "U-Net, no click": "give --unet FILE (python benchmarks/unet.py) or --unet-minutes N",
    },
    ADAPTATION: {
        "frozen base, trained decoder": "give its run: --base BASE --checkpoint NAME=ADAPTERS",
        "LoRA": "give its run: --base BASE --checkpoint NAME=ADAPTERS",
    },
}
"""What a comparison should hold, and how it comes to; said in the result where it lacks."""


def measure(
    bundle: Path | None = None, backend: str = "auto", studies: int = 20, learned: Learned = NOTHING
) -> Record:
    """Dice, HD95 and volume error of every method at every click."""
    tally = Tally()
    with ExitStack() as stack:
        ours = stack.enter_context(bundle_predictor(bundle, backend))
        predictors = {f"SAMIHS, {ours.name}": ours}
        if learned.base is not None:
            for name, adapters in learned.adapters.items():
                opened = checkpoint_predictor(adapters, learned.base)
                predictors[name] = stack.enter_context(opened)
        for each in study_slices(StudySpec(studies), workers=2):
            _judge(each, predictors, learned.unet, tally)
    have = {*learned.adapters, *(["U-Net, no click"] if learned.unet else [])}
    kind = ADAPTATION if learned.adapters else METHODS
    lacking = {name: why for name, why in WANTED[kind].items() if name not in have}
    settings: dict[str, Any] = {"studies": studies, "click": "deepest"}
    if learned.unet:
        settings["unet"] = {**asdict(learned.unet.plan), "steps": learned.unet.steps}
    return Record(kind, tally.series(), settings, lacking)


def _judge(
    study_slice: StudySlice, predictors: Mapping[str, Predictor], network: UNet | None, tally: Tally
) -> None:
    """Ask everything for each lesion of the slice."""
    targets = [each for each in study_slice.clicks if is_bleed(each)]
    clicks = [each.click for each in targets]
    answers = {name: each.answer(study_slice.hu, clicks) for name, each in predictors.items()}
    blood = network.mask(study_slice.hu) if network is not None and targets else None
    for number, target in enumerate(targets):
        masks = {name: each[number][0] for name, each in answers.items()}
        masks |= {name: way(study_slice.hu, target.click) for name, way in CLASSICAL.items()}
        if blood is not None:
            masks["U-Net, no click"] = component_at(blood, target.click)
        tally.add(study_slice, target, masks)


def read_checkpoints(given: Sequence[str]) -> dict[str, Path]:
    """``NAME=ADAPTERS`` of each option; raises :class:`UsageError` where one is none of it.

    The path may hold further equals signs, as the runs of ``compare`` do.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, separator, path = each.partition("=")
        if not (name and separator and path):
            raise UsageError(f"--checkpoint {each!r}: expected NAME=ADAPTERS")
        if name in found:
            raise UsageError(f"--checkpoint {name!r} is given twice: name each once")
        found[name] = Path(path)
    return found


def read_learned(options: argparse.Namespace) -> Learned:
    """What the command line asks for; trains a U-Net where it asks for minutes of it."""
    learned = Learned(read_checkpoints(options.checkpoint), options.base)  # checked before training
    if options.unet is not None and options.unet_minutes is not None:
        raise UsageError("give --unet or --unet-minutes, not both")
    if options.unet is not None:
        return replace(learned, unet=unet.load(options.unet))
    if options.unet_minutes is not None:
        plan = unet.shipped_plan(options.unet_minutes)
        return replace(learned, unet=unet.trained(plan, options.unet_cache))
    return learned


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--base", type=Path, help="what the checkpoints were trained on")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=ADAPTERS")
    parser.add_argument("--unet", type=Path, help="weights that unet.py wrote")
    parser.add_argument("--unet-minutes", type=float, help="train one for so long instead")
    parser.add_argument("--unet-cache", type=Path, default=unet.CACHE, help="phantoms for it")
    options = parser.parse_args()
    try:
        learned = read_learned(options)
        record = measure(options.bundle, options.backend, options.studies, learned)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
