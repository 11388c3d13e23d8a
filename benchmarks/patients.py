"""The shipped model compared with methods one would use without it, on slices of real patients.

    python benchmarks/patients.py ROOT --name "BCIHM, 8 bit" [--click random] [--bundle DIR]

ROOT is a data set of scans and masks (docs/data.md). Each 8-connected lesion of a slice gets one
click, on its deepest point or on a random one; the answers are united and judged against all blood
of the slice, as in ``samihs-evaluate --data``. Region growing is run at several tolerances, of
which a reader may pick the best afterwards. "As served" is what ``samihs-infer`` draws: nothing if
the score is below the bundle's threshold. Only figures are written: no pictures, no names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from accuracy import ALL, Tally
from classical import CLASSICAL
from record import Record, command_line

from samihs_runtime.errors import DataError, SamihsError
from samihs_training.data.cases.case import CaseFiles, Volume
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.checking import read_checked
from samihs_training.data.clicks import parts_of
from samihs_training.evaluation.predictors import Predictor, bundle_predictor
from samihs_training.prompts import PromptRule, prompt_rule

CLICKS = ("deepest", "random")


def measure(
    cases: Iterable[CaseFiles],
    predictor: Predictor,
    click: str = "deepest",
) -> Tally:
    """Dice, HD95 and volume error of every method on every slice with hemorrhage."""
    rule, rng, tally = prompt_rule(click), np.random.default_rng(0), Tally()
    for patient, case in enumerate(cases):
        volume = read_checked(case)
        for index in np.flatnonzero((volume.labels > 0).any((1, 2))):
            _judge(volume, int(index), patient, predictor, rule, rng, tally)
    if not tally.series():
        raise DataError("no slice has a hemorrhage to click on")
    return tally


def _judge(
    volume: Volume,
    index: int,
    patient: int,
    predictor: Predictor,
    rule: PromptRule,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    """Judge all methods on one slice."""
    hu = np.rint(volume.hu[index]).astype(np.int16)
    truth = np.asarray(volume.labels[index] > 0)
    clicks = [rule(part, rng).points[0] for part in parts_of(truth)]
    answers = predictor.answer(hu, clicks)
    masks = {f"SAMIHS, {predictor.name}": np.logical_or.reduce([mask for mask, _ in answers])}
    if predictor.score_threshold is not None:
        served = [mask & (score >= predictor.score_threshold) for mask, score in answers]
        masks["the same, as served"] = np.logical_or.reduce(served)
    for name, method in CLASSICAL.items():
        masks[name] = np.logical_or.reduce([method(hu, each) for each in clicks])
    extent = float(volume.extents_mm[index])
    tally.judge(patient, (ALL,), masks, truth, volume.spacing_mm, extent)


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--name", required=True, help="of the data set, for the record")
    parser.add_argument("--click", choices=CLICKS, default="deepest")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    try:
        cases = find_cases(options.root)
        with bundle_predictor(options.bundle, options.backend) as predictor:
            tally = measure(cases, predictor, options.click)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    suffix = "" if options.click == "deepest" else f"-{options.click}"
    settings = {
        "data": options.name, "cases": len(cases), "click": options.click,
        "per": "slice", "over": "cases",
    }  # fmt: skip
    weights = predictor.weights
    record = Record(f"patients{suffix}", tally.series(), settings, weights=weights)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
