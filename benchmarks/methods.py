"""One click, many methods: the shipped model compared with methods one would use without it.

    python benchmarks/methods.py [--bundle DIR] [--studies 20]
        [--base BASE --checkpoint NAME=ADAPTERS ...] [--unet FILE | --unet-minutes N]

Phantom studies of unseen seeds, with one click on the deepest point of each lesion of a slice. The
classical methods are those of ``classical.py``.

Other ways to adapt the same base come from runs of ``samihs-train compare``, each given a name;
they make a separate result, ``methods-adaptation``::

    --base models/vit_mini/base.safetensors
    --checkpoint "frozen base, trained decoder=OUT/runs/method=decoder seed=1/adapters.safetensors"
    --checkpoint "LoRA=OUT/runs/method=lora seed=1/adapters.safetensors"

The U-Net comes from ``unet.py``, or is trained here for ``--unet-minutes``; with neither option it
is not compared, which the result and the terminal say. The samples are Dice, HD95 and volume error
of each click; ``study`` gives its study.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import unet
from accuracy import Tally, judge
from classical import CLASSICAL
from record import Record, command_line
from unet import UNet, component_at

from samihs_runtime.errors import SamihsError, UsageError
from samihs_training.data.clicks import Mask, Point
from samihs_training.data.studies import StudySlice, StudySpec, study_slices
from samihs_training.evaluation.predictors import Predictor, bundle_predictor, checkpoint_predictor


@dataclass(frozen=True)
class Learned:
    """Trained models other than the bundle."""

    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Name -> adapter checkpoint, all trained on ``base``."""
    base: Path | None = None
    unet: UNet | None = None

    def __post_init__(self) -> None:
        if self.adapters and self.base is None:
            raise UsageError(
                "--checkpoint needs --base: the base that the adapters were trained on"
            )


NOTHING = Learned()
UNET = "U-Net, no click"
METHODS, ADAPTATION = "methods", "methods-adaptation"
"""With checkpoints it is a comparison of ways to adapt, and a separate result: it needs runs on one
base, which take longer than everything else here."""
WANTED = {
    METHODS: {
        UNET: "give --unet FILE (python benchmarks/unet.py) or --unet-minutes N",
    },
    ADAPTATION: {
        "frozen base, trained decoder": "give its run: --base BASE --checkpoint NAME=ADAPTERS",
        "LoRA": "give its run: --base BASE --checkpoint NAME=ADAPTERS",
    },
}
"""What a comparison should contain, and how to add it; noted in the result if missing."""


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
    have = {*learned.adapters, *([UNET] if learned.unet else [])}
    kind = ADAPTATION if learned.adapters else METHODS
    lacking = {name: why for name, why in WANTED[kind].items() if name not in have}
    settings: dict[str, Any] = {"studies": studies, "click": "deepest"}
    if learned.unet:
        settings["unet"] = {**asdict(learned.unet.plan), "steps": learned.unet.steps}
    return Record(kind, tally.series(), settings, lacking, weights=ours.weights)


def _judge(
    study_slice: StudySlice, predictors: Mapping[str, Predictor], network: UNet | None, tally: Tally
) -> None:
    """Judge all methods on each lesion of the slice."""

    @cache
    def blood() -> Mask | None:
        return None if network is None else network.mask(study_slice.hu)

    def others(click: Point) -> dict[str, Mask]:
        masks = {name: way(study_slice.hu, click) for name, way in CLASSICAL.items()}
        found = blood()
        return masks if found is None else masks | {UNET: component_at(found, click)}

    judge(study_slice, predictors, tally, others)


def read_checkpoints(given: Sequence[str]) -> dict[str, Path]:
    """``NAME=ADAPTERS`` of each option; raises :class:`UsageError` if one is malformed.

    The path may contain further equals signs, as the runs of ``compare`` do.
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
    """The models named on the command line; trains a U-Net if minutes are given for it."""
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
    without = "weights that unet.py wrote; without this or --unet-minutes no U-Net is compared"
    parser.add_argument("--unet", type=Path, help=without)
    parser.add_argument("--unet-minutes", type=float, help="train one for this long instead")
    parser.add_argument("--unet-cache", type=Path, default=unet.CACHE, help="phantoms for it")
    options = parser.parse_args()
    try:
        learned = read_learned(options)
        record = measure(options.bundle, options.backend, options.studies, learned)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    for name, why in record.not_measured.items():
        print(f"not compared: {name}: {why}", file=sys.stderr)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
