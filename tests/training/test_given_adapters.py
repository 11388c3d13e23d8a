"""What is said of the origin of adapters whose threshold or score comes from something else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from samihs_runtime.errors import UsageError
from samihs_training.checkpoints.checkpoint import LoadedAdapters
from samihs_training.checkpoints.given_adapters import origin_of

PHANTOMS: dict[str, Any] = {"training_data": "phantoms"}
PATIENTS: dict[str, Any] = {
    "training_data": "80 cases",
    "data": {"sha256": "d1", "folds_sha256": "a1", "fold": 0, "cases": 80},
}  # fmt: skip
OTHER_FOLD = {**PATIENTS, "data": {**PATIENTS["data"], "fold": 1}}
OTHER_DATA = {
    "training_data": "9 cases",
    "data": {"sha256": "d2", "folds_sha256": "a2", "fold": 0, "cases": 9},
}
IMPORTED = {"training_data": "somebody's", "data": {"unknown": True}}


def origin(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    loaded = cast(LoadedAdapters, SimpleNamespace(description=before))
    return origin_of(loaded, now, "score")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (PHANTOMS, PHANTOMS, PHANTOMS),
        (PATIENTS, PATIENTS, PATIENTS),
        (PHANTOMS, PATIENTS, {**PATIENTS, "training_data": "phantoms; its score: 80 cases"}),
        (PATIENTS, PHANTOMS, {**PATIENTS, "training_data": "80 cases; its score: phantoms"}),
        (PATIENTS, OTHER_DATA, {"training_data": "80 cases; its score: 9 cases",
                                "data": {**PATIENTS["data"], "unknown": True}}),
        (IMPORTED, PATIENTS, {"training_data": "somebody's; its score: 80 cases",
                              "data": {**PATIENTS["data"], "unknown": True}}),
    ],
)  # fmt: skip
def test_all_that_was_trained_on_is_told(
    before: dict[str, Any], now: dict[str, Any], said: dict[str, Any]
) -> None:
    """And by which folds: the evaluation refuses to judge by patients that were seen."""
    assert origin(before, now) == said


def test_what_was_determined_anew_is_named() -> None:
    loaded = cast(LoadedAdapters, SimpleNamespace(description=PHANTOMS))
    told = origin_of(loaded, PATIENTS, "threshold and score")
    assert told["training_data"] == "phantoms; its threshold and score: 80 cases"


def test_who_was_held_out_from_the_one_is_held_out_from_the_other() -> None:
    with pytest.raises(UsageError, match="no patient would be held out from both"):
        origin(PATIENTS, OTHER_FOLD)
