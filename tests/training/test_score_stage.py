"""The stage that trains the score alone: on the masks as they are, which it leaves as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from samihs_runtime.errors import CheckpointError, SamihsError, UsageError
from samihs_training.checkpoints.tensorfile import read_safetensors
from samihs_training.compute.distributed import Processes
from samihs_training.config import Recipe, StageConfig, recipe_from
from samihs_training.fit import fit
from samihs_training.methods.base import SCORE_HEADS
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.runs.runlog import StepReport
from samihs_training.stages.batches import NumberedBatches
from samihs_training.stages.objective import Heard
from samihs_training.stages.score_stage import ScoreStage, _minibatches

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


def test_the_score_of_adapters_is_trained_anew_and_their_masks_stay(tmp_path: Path) -> None:
    fit(RECIPE, tmp_path / "run", workers=0)
    base, adapters = (tmp_path / "run" / f"{each}.safetensors" for each in ("base", "adapters"))
    again = replace(RECIPE, base=None, base_checkpoint=str(base), score=STAGE)
    again = replace(again, adapters=str(adapters), slices=4)
    before, after = (read_safetensors(each) for each in (adapters, fit(again, tmp_path / "again")))
    changed = {name for name in before[0] if not torch.equal(before[0][name], after[0][name])}
    assert changed
    assert all(name.startswith(SCORE_HEADS) for name in changed)
    assert {**after[1], **before[1]} == after[1]  # what was said of the adapters still is
    assert after[1]["score"]["recipe"]["slices"] == 4
    assert after[1]["score"]["answers"] == 8
    assert after[1]["score"]["recipe"]["adapters"] == "adapters.safetensors"
    with pytest.raises(
        UsageError, match=r"was trained in the window .*-20.*: the recipe's is .*-10"
    ):
        fit(replace(again, window=(-10.0, 90.0)), tmp_path / "other")
    assert not (tmp_path / "other").exists()  # nor was any phantom made
    with pytest.raises(CheckpointError, match="no adapter checkpoint at absent: see --adapters"):
        fit(replace(again, adapters="absent"), tmp_path / "absent")


@pytest.mark.parametrize(
    ("stage", "idle"), [("score", {"compile": True}), ("score", {"crop": 256}),
                        ("score", {"score_weight": 10.0}), ("adapt", {"passes": 3})],
)  # fmt: skip
def test_what_would_change_nothing_in_a_stage_is_refused(stage: str, idle: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"\[{stage}\]: {next(iter(idle))} would change nothing"):
        replace(RECIPE, **{"score": STAGE, stage: replace(STAGE, **idle)})


def test_adapters_without_their_base_or_a_score_to_train_are_refused() -> None:
    for options in ({"base_checkpoint": "b"}, {"base": STAGE, "score": STAGE}):
        with pytest.raises(
            UsageError, match=r"base_checkpoint, and at least one of .* and \[score\]"
        ):
            Recipe(adapt=STAGE, adapters="a.safetensors", **options)  # type: ignore[arg-type]


def told(count: int) -> Heard:
    """Answers whose worth their token tells, and their evidence alone."""
    torch.manual_seed(3)
    token, evidence = torch.randn(count, PYRAMID.prompt_width), torch.randn(count, WIDTH)
    iou = (0.5 + 0.2 * token[:, 0] + 0.2 * evidence[:, -1]).clamp(0, 1)
    return Heard(token, evidence, iou[:, None], iou > 0)


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
    def begun(seed: int, processes: Processes | None = None) -> ScoreStage:
        torch.manual_seed(seed)
        model = SamihsModel(build_sam(PYRAMID), PYRAMID)
        return ScoreStage(model, RECIPE, STAGE, tmp_path, processes)

    stage = begun(1)
    stage.heard = [told(4), told(4)]
    stage._save()
    assert len(begun(1).heard) == 2
    for other in (lambda: begun(2), lambda: begun(1, Processes(0, 2))):
        with pytest.raises(CheckpointError, match="it was trained on another base"):
            other()
    (tmp_path / "score.state.pt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="delete it to begin the stage again"):
        begun(1)


def test_the_weights_average_is_what_is_kept(tmp_path: Path) -> None:
    def trained_with(ema: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = SamihsModel(build_sam(PYRAMID), PYRAMID)
        stage = replace(STAGE, batch=8, prompts=8, passes=1, ema=ema)
        ScoreStage(model, RECIPE, stage, tmp_path)._train(told(640))
        weight: torch.Tensor = model.sam.mask_decoder.evidence.out.weight.detach()
        return weight

    last, average = trained_with(0.0), trained_with(0.98)
    assert (last - average).abs().max() > 1e-4
    assert average.norm() < last.norm()  # they began as nothing


def test_heads_that_come_to_be_no_numbers_are_not_kept(tmp_path: Path) -> None:
    model = SamihsModel(build_sam(PYRAMID), PYRAMID)
    stage = ScoreStage(model, RECIPE, STAGE, tmp_path)
    heard = told(4)
    heard.evidence[1, 0] = torch.inf
    stage.heard = [heard, told(4)]
    with pytest.raises(SamihsError, match="the error of the score is nan before"):
        stage.run(cast(NumberedBatches, []))


def test_of_several_processes_each_trains_on_what_all_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heads(ranks: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = SamihsModel(build_sam(PYRAMID), PYRAMID)
        stage = ScoreStage(model, RECIPE, replace(STAGE, steps=1), tmp_path / str(ranks))
        heard = [told(8), told(16)]
        stage.heard = heard[:1] if ranks == 2 else [Heard.joined(heard)]
        monkeypatch.setattr(Processes, "gathered", lambda _, mine: [mine, *heard[1:ranks]])
        (tmp_path / str(ranks)).mkdir()
        stage.run(cast(NumberedBatches, []))
        weight: torch.Tensor = model.sam.mask_decoder.evidence.out.weight.detach()
        return weight

    assert torch.equal(heads(1), heads(2))


def test_a_method_that_keeps_the_decoder_has_no_score_to_train() -> None:
    stage = {"steps": 1, "learning_rate": 1e-3}
    raw = {"adapt": stage, "score": stage, "base_checkpoint": "base.pth", "method": "frozen"}
    with pytest.raises(UsageError, match=r"\[score\] trains heads"):
        recipe_from(raw)
