"""The stage that chooses the logit above which a pixel belongs to the mask, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from samihs_runtime.errors import SamihsError, UsageError
from samihs_training.checkpoints.checkpoint import load_adapters, save_base
from samihs_training.checkpoints.tensorfile import read_safetensors
from samihs_training.config import Recipe, StageConfig, recipe_from
from samihs_training.data.slices import Batch
from samihs_training.fit import fit
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.runs.runlog import StepReport
from samihs_training.stages.batches import NumberedBatches
from samihs_training.stages.objective import Heard, Objective
from samihs_training.stages.score_stage import ScoreStage
from samihs_training.stages.threshold_stage import ThresholdStage

from .tiny import PYRAMID, TINY

THRESHOLD = "mask_decoder.mask_threshold.logit"
TRAINED = StageConfig(steps=2, learning_rate=1e-2, batch=2, prompts=2, correct=0.0)
CHOSEN = StageConfig(steps=3, batch=2, prompts=2)
RECIPE = Recipe(base=TRAINED, adapt=TRAINED, preset="tiny", slices=3, validation_slices=2, rank=3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", PYRAMID)


@pytest.fixture
def all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models answer nonsense: of their masks, only a whole slice overlaps a lesion."""
    monkeypatch.setattr(ThresholdStage, "thresholds", (0.0, -1000.0))


def model_of(threshold: float = 0.0) -> SamihsModel:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID).eval()
    model.sam.mask_decoder.mask_threshold.logit.fill_(threshold)
    return model


def told(iou: Sequence[Sequence[float]], on_mask: Sequence[bool]) -> Heard:
    """Answers with these IoUs at -1, 0 and 1, and 0 at all other thresholds."""
    rows = torch.zeros(len(iou), len(ThresholdStage.thresholds))
    for column, threshold in enumerate((-1.0, 0.0, 1.0)):
        values = torch.tensor([each[column] for each in iou])
        rows[:, ThresholdStage.thresholds.index(threshold)] = values
    return Heard(torch.zeros(len(iou), 1), torch.zeros(len(iou), 1), rows, torch.tensor(on_mask))


def run(heard: Sequence[Heard], out: Path, model: SamihsModel) -> ThresholdStage:
    """The stage after its last step."""
    stage = ThresholdStage(model, RECIPE, replace(CHOSEN, steps=len(heard)), out)
    stage.heard = list(heard)
    return stage


def test_the_threshold_of_the_best_mean_dice_is_chosen(tmp_path: Path) -> None:
    """Not that of the best IoU: one answer that is hardly a mask pays with more IoU than Dice.
    Answers to prompts on no lesion, and to corrective clicks, have no say."""
    model = model_of()
    lower, zero = (0.4, 0.4), (0.9, 0.0)
    assert sum(zero) > sum(lower)
    first = told([(0.4, 0.9, 0.0), (0.0, 0.0, 1.0)], [True, False])
    second = told([(0.4, 0.0, 0.0)], [True])
    done = run([first, second], tmp_path, model).run(cast(NumberedBatches, []))
    assert (done.logit, done.answers) == (-1.0, 2)
    assert done.dice == pytest.approx(0.8 / 1.4)
    assert done.dice_at_zero == pytest.approx(1.8 / 1.9 / 2)
    gains = torch.tensor([0.8 / 1.4 - 1.8 / 1.9, 0.8 / 1.4])
    assert done.gain_error == pytest.approx(gains.std(correction=0).item() / 2**0.5)
    assert model.sam.mask_decoder.mask_threshold.logit.tolist() == [-1.0]


def test_a_threshold_is_chosen_afresh(tmp_path: Path) -> None:
    model = model_of(threshold=-2.0)
    stage = run([told([(0.0, 0.5, 0.4)], [True])], tmp_path, model)
    assert not model.sam.mask_decoder.mask_threshold.logit.any()
    assert stage.run(cast(NumberedBatches, [])).logit == 0.0


def test_of_equally_good_thresholds_the_one_nearest_to_0_is_chosen(tmp_path: Path) -> None:
    everywhere = told([(0.0, 0.0, 0.0)], [True])
    everywhere.iou[:] = 0.5
    assert run([everywhere], tmp_path, model_of()).run(cast(NumberedBatches, [])).logit == 0.0


@pytest.mark.parametrize(("iou", "on_mask", "count"), [(0.5, False, 0), (0.0, True, 1)])
def test_without_an_overlap_there_is_nothing_to_choose_by(
    tmp_path: Path, iou: float, on_mask: bool, count: int
) -> None:
    """No slice with a lesion, or logits that are no numbers, of which none is above anything."""
    stage = run([told([(iou, iou, iou)], [on_mask])], tmp_path, model_of())
    with pytest.raises(SamihsError, match=f"none of {count} answers overlaps its lesion"):
        stage.run(cast(NumberedBatches, []))


@torch.no_grad()
def test_masks_are_compared_above_each_threshold() -> None:
    """As if the model had it: its answers' IoU at 0 is then that at the threshold before."""
    size = PYRAMID.image_size
    masks = torch.zeros(2, 1, size, size, dtype=torch.bool)
    masks[:, :, 10:40, 20:50] = True
    torch.manual_seed(1)
    batch = Batch(
        hu=torch.randn(2, 1, size, size) * 40 + 30,
        window=torch.tensor([[-20.0, 100.0]] * 2),
        points=torch.tensor([[[30.0, 20.0]], [[40.0, 30.0]]]),
        labels=torch.ones(2, 1, dtype=torch.int64),
        masks=masks,
        bleeds=masks,
    )

    def iou(threshold: float, thresholds: Sequence[float]) -> Tensor:
        model = model_of(threshold)
        return Objective(model, RECIPE, CHOSEN).heard(batch, thresholds=thresholds).iou

    logits, _ = model_of().answer(
        model_of().encode(batch.hu, batch.window), batch.points, batch.labels, slice_size=size
    )
    spread = logits.quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    at_once = iou(0.0, spread)
    assert at_once.shape == (2, 3)
    for column, threshold in enumerate(spread):
        assert torch.allclose(at_once[:, column], iou(threshold, (0.0,))[:, 0])
    assert len(at_once.unique()) == 6


@pytest.mark.usefixtures("all_or_nothing")
def test_only_the_threshold_changes_and_the_score_is_trained_on_what_is_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str, recipe: Recipe) -> dict[str, Tensor]:
        return read_safetensors(fit(recipe, tmp_path / name, workers=0))[0]

    before = trained("without", RECIPE)
    after = trained("with", replace(RECIPE, mask_threshold=CHOSEN))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {THRESHOLD}
    assert after[THRESHOLD].tolist() == [-1000.0]
    heard_at: list[Tensor] = []
    listen = ScoreStage.listen

    def noted(stage: ScoreStage, *given: Any) -> Heard:
        heard_at.append(stage.model.sam.mask_decoder.mask_threshold.logit.clone())
        return listen(stage, *given)

    monkeypatch.setattr(ScoreStage, "listen", noted)
    both = trained("both", replace(RECIPE, mask_threshold=CHOSEN, score=TRAINED))
    assert torch.equal(both[THRESHOLD], after[THRESHOLD])
    assert [each.tolist() for each in heard_at] == [after[THRESHOLD].tolist()]


@pytest.mark.usefixtures("all_or_nothing")
def test_that_of_existing_adapters_is_chosen_anew_and_recorded(tmp_path: Path) -> None:
    fit(RECIPE, tmp_path / "run", workers=0)
    base, adapters = (tmp_path / "run" / f"{each}.safetensors" for each in ("base", "adapters"))
    recipe = replace(
        RECIPE, base=None, base_checkpoint=str(base), adapters=str(adapters), slices=4,
        mask_threshold=CHOSEN,
    )  # fmt: skip
    made = fit(recipe, tmp_path / "again", workers=0)
    (before, _), (after, about) = read_safetensors(adapters), read_safetensors(made)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {THRESHOLD}
    assert about["mask_threshold"]["logit"] == after[THRESHOLD].item()
    assert 0 < about["mask_threshold"]["answers"] <= 12  # some slices have no lesion
    assert about["mask_threshold"]["recipe"]["slices"] == 4
    assert "score" not in about
    # That of the adapters given does not matter.
    again = replace(recipe, adapters=str(made))
    assert torch.equal(
        load_adapters(fit(again, tmp_path / "more", workers=0), base).model.sam.get_buffer(
            THRESHOLD
        ),
        after[THRESHOLD],
    )


class Stopped(Exception):
    pass


@pytest.mark.usefixtures("all_or_nothing")
@pytest.mark.parametrize("at", ["mask_threshold", "score"])
def test_a_run_stopped_goes_on_to_the_same_bits(tmp_path: Path, at: str) -> None:
    """From the answers that it had collected, which are not asked for again."""
    recipe = replace(RECIPE, mask_threshold=CHOSEN, score=TRAINED, checkpoint_minutes=0.0)
    whole, _ = read_safetensors(fit(recipe, tmp_path / "whole", workers=0))
    steps: list[int] = []

    def stop(step: StepReport) -> None:
        if (step.stage, step.step) == (at, 2):  # the first has been saved
            raise Stopped

    def note(step: StepReport) -> None:
        if step.stage == at:
            steps.append(step.step)

    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", workers=0, report=stop)
    made = fit(recipe, tmp_path / "run", workers=0, resume=True, report=note)
    assert steps[0] == 2
    resumed, _ = read_safetensors(made)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_sams_own_decoder_has_none_to_choose_which_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "the decoder of tiny has no threshold to choose"
    with pytest.raises(UsageError, match=why):
        ThresholdStage(SamihsModel(build_sam(TINY), TINY), RECIPE, CHOSEN, tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    save_base(tmp_path / "base.safetensors", build_sam(TINY), TINY, {})
    trained = replace(RECIPE, mask_threshold=CHOSEN)
    given = replace(trained, base=None, base_checkpoint=str(tmp_path / "base.safetensors"))
    for recipe in (trained, given):
        with pytest.raises(UsageError, match=why):
            fit(recipe, tmp_path / "run", workers=0)
        assert not (tmp_path / "run").exists()
    meta = replace(given, base_checkpoint=str(tmp_path / "sam_vit_b.pth"))
    (tmp_path / "sam_vit_b.pth").touch()
    with pytest.raises(UsageError, match="the decoder of vit_b has no threshold"):
        fit(meta, tmp_path / "run", workers=0)


def test_a_stage_that_trains_weights_needs_a_rate_and_this_one_none() -> None:
    raw = {"adapt": {"steps": 1, "learning_rate": 1e-3}, "base_checkpoint": "base.pth"}
    assert recipe_from({**raw, "mask_threshold": {"steps": 1}}).mask_threshold == StageConfig(1)
    with pytest.raises(UsageError, match=r"\[mask_threshold\]: learning_rate would change nothing"):
        recipe_from({**raw, "mask_threshold": {"steps": 1, "learning_rate": 1e-3}})
    for idle in ("negatives", "correct"):
        with pytest.raises(UsageError, match=rf"\[mask_threshold\]: {idle} would change nothing"):
            recipe_from({**raw, "mask_threshold": {"steps": 1, idle: 0.1}})
    for stage in ("adapt", "score"):
        with pytest.raises(UsageError, match=rf"\[{stage}\] trains weights: it needs a learning_"):
            recipe_from({**raw, stage: {"steps": 1}})
