"""The stage that trains the score alone: on the masks as they are, which it leaves as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samihs_runtime.errors import CheckpointError, UsageError
from samihs_training.config import Recipe, StageConfig, recipe_from
from samihs_training.fit import fit
from samihs_training.methods.base import SCORE_HEADS
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.objective import Heard
from samihs_training.runlog import StepReport
from samihs_training.score_stage import ScoreStage, _minibatches
from samihs_training.tensorfile import read_safetensors

from .tiny import PYRAMID, TINY

WIDTH = 3 * (2 * PYRAMID.channels.detail + PYRAMID.channels.fine) + 2

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


def told(count: int) -> Heard:
    """Answers whose worth their token tells, and their evidence alone."""
    torch.manual_seed(3)
    token, evidence = torch.randn(count, PYRAMID.prompt_width), torch.randn(count, WIDTH)
    return Heard(token, evidence, (0.5 + 0.2 * token[:, 0] + 0.2 * evidence[:, -1]).clamp(0, 1))


def test_the_heads_learn_what_the_worth_of_a_mask_hangs_on(tmp_path: Path) -> None:
    """Of the token, and of the slice's own features, the last of the evidence."""
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID)
    stage = replace(STAGE, batch=8, prompts=8, passes=60)
    score = ScoreStage(model, RECIPE, stage, tmp_path)
    heard = told(640)
    before = score._error(heard, slice(None)).item()
    score._train(heard)
    with torch.no_grad():
        after = score._error(heard, slice(None)).item()
    assert after < 0.1 * before


def test_each_pass_takes_every_prompt_once() -> None:
    order = torch.Generator().manual_seed(1)
    taken = list(_minibatches(10, 4, 3, order))
    assert [len(each) for each in taken] == [4, 4, 2] * 3
    passes = torch.cat(taken).view(3, 10)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(10).expand(3, 10))
    assert not torch.equal(passes[0], passes[1])


def test_what_another_base_told_is_not_gone_on_with(tmp_path: Path) -> None:
    def begun(base: str) -> ScoreStage:
        model = SamihsModel(build_sam(PYRAMID), PYRAMID)
        return ScoreStage(model, RECIPE, STAGE, tmp_path, base_sha256=base)

    stage = begun("one")
    stage.heard = [told(4), told(4)]
    stage._save()
    assert len(begun("one").heard) == 2
    with pytest.raises(CheckpointError, match="it was trained on another base"):
        begun("other")
    (tmp_path / "score.state.pt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="delete it to begin the stage again"):
        begun("one")


def test_a_method_that_keeps_the_decoder_has_no_score_to_train() -> None:
    stage = {"steps": 1, "learning_rate": 1e-3}
    raw = {"adapt": stage, "score": stage, "base_checkpoint": "base.pth", "method": "frozen"}
    with pytest.raises(UsageError, match=r"\[score\] trains heads"):
        recipe_from(raw)
