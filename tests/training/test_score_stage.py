"""The stage that trains the score alone: on the masks as they are, which it leaves as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samihs_runtime.errors import UsageError
from samihs_training.config import Recipe, StageConfig, recipe_from
from samihs_training.fit import fit
from samihs_training.methods.base import SCORE_HEADS
from samihs_training.network.sam import PRESETS
from samihs_training.runlog import StepReport
from samihs_training.tensorfile import read_safetensors

from .tiny import TINY

STAGE = StageConfig(steps=2, learning_rate=1e-2, batch=2, prompts=2, correct=0.0)
RECIPE = Recipe(base=STAGE, adapt=STAGE, preset="tiny", slices=3, validation_slices=2, rank=3)


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)


def trained(out: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    return read_safetensors(fit(recipe, out, workers=0))[0]


def test_only_the_heads_of_the_score_change(tmp_path: Path) -> None:
    before = trained(tmp_path / "without", RECIPE)
    after = trained(tmp_path / "with", replace(RECIPE, score=STAGE))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(SCORE_HEADS) for name in changed)


def test_a_run_stopped_in_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    recipe = replace(RECIPE, score=STAGE, checkpoint_minutes=0.0)
    whole = trained(tmp_path / "whole", recipe)

    def stop(step: StepReport) -> None:
        if (step.stage, step.step) == ("score", 2):
            raise Stopped

    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", workers=0, report=stop)
    resumed, _ = read_safetensors(fit(recipe, tmp_path / "run", workers=0, resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_method_that_keeps_the_decoder_has_no_score_to_train() -> None:
    stage = {"steps": 1, "learning_rate": 1e-3}
    raw = {"adapt": stage, "score": stage, "base_checkpoint": "base.pth", "method": "frozen"}
    with pytest.raises(UsageError, match=r"\[score\] trains heads"):
        recipe_from(raw)
