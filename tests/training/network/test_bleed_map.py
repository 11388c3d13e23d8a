"""The map of all blood: what it asks of the features, and that nothing of it is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from samihs_runtime.errors import UsageError
from samihs_training.config import StageConfig
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.sources import Drawing, PhantomSlices
from samihs_training.network.bleed_map import NO_BLOOD, BleedMap
from samihs_training.network.model import SamihsModel, logits_at_slice_size
from samihs_training.network.sam import SamConfig, build_sam
from samihs_training.runs.runlog import StepReport
from samihs_training.stages import map_training
from samihs_training.stages.batches import NumberedBatches, Share
from samihs_training.stages.map_training import MapTraining
from samihs_training.stages.objective import Objective, low_resolution
from samihs_training.stages.trainer import Trainer
from tests.training.test_objective import SLICE, batch_of
from tests.training.tiny import PYRAMID, TINY
from tests.training.tiny_run import RECIPE, STAGE

MAPPED = replace(STAGE, bleed_map=0.5, correct=0.0)


@pytest.fixture
def model() -> SamihsModel:
    torch.manual_seed(0)
    return SamihsModel(build_sam(PYRAMID), PYRAMID)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    return open_cache(tmp_path_factory.mktemp("cache"), CacheSpec("train", 4, matrix=128))


@pytest.mark.parametrize("at_slice_size", [False, True])
def test_it_is_judged_by_all_blood_of_the_slice_and_added_by_its_weight(
    model: SamihsModel, at_slice_size: bool
) -> None:
    asked, bleeds = torch.zeros(2, 2, 1, SLICE, SLICE)
    asked[:, :, 8:20, 8:20] = 1
    bleeds[:, :, 8:20, 8:50] = 1
    batch = replace(batch_of(asked), bleeds=bleeds.to(torch.uint8))
    stage = replace(MAPPED, at_slice_size=at_slice_size)
    bleed_map = a_map()
    recipe = replace(RECIPE, amp=False)
    with torch.no_grad():
        plain = Objective(model, recipe, stage)(batch).loss
        mapped = Objective(model, recipe, stage, bleed_map)(batch).loss
        logits = bleed_map(model.encode(batch.hu, batch.window))
    side = PYRAMID.mask_size
    assert logits.shape == (2, 1, side, side)
    if at_slice_size:
        loss = recipe.make_loss()(logits_at_slice_size(logits, SLICE), bleeds)
    else:
        loss = recipe.make_loss()(logits, low_resolution(bleeds, side))
    assert mapped.item() == pytest.approx(plain.item() + 0.5 * loss.item(), rel=1e-5)


def test_each_of_the_finest_features_is_told(model: SamihsModel) -> None:
    torch.manual_seed(1)
    shape = (1, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    embedding = torch.randn(shape, requires_grad=True)
    a_map()(embedding).square().sum().backward()
    assert embedding.grad is not None
    told = embedding.grad.ne(0).flatten(2).all(2)[0]
    assert not told[: PYRAMID.prompt_width].any()  # those are SAM's own
    assert told[PYRAMID.prompt_width :].all()


def test_it_begins_as_no_blood_and_so_costs_little(model: SamihsModel) -> None:
    """Whatever it reads, however large: of slices that hardly bleed no loss is a hundredfold."""
    shape = (2, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    logits = BleedMap(PYRAMID.channels)(20 * torch.randn(shape))
    assert (logits == NO_BLOOD).all()


def test_the_model_hears_of_it_once_it_knows(
    cache: SliceCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that its gradients neither reach the model nor count where the model's are clipped."""
    without = trainer(PYRAMID, replace(MAPPED, bleed_map=0.0), tmp_path / "without")
    run(without, cache)
    expected = without.model.sam.state_dict()
    for alone, same in ((MAPPED.steps, True), (1, False)):
        monkeypatch.setattr(map_training, "ALONE_STEPS", alone)
        mapped = trainer(PYRAMID, MAPPED, tmp_path / f"{alone}")
        before = [each.clone() for each in mapped.bleed_map.parameters()]  # type: ignore[union-attr]
        run(mapped, cache)
        state = mapped.model.sam.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected) is same
        after = mapped.bleed_map.parameters()  # type: ignore[union-attr]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_its_rate_comes_down_to_the_stages() -> None:
    training = MapTraining(a_map(), clip=1.0)
    rates = []
    for step in (0, map_training.HALVED_EVERY, 10_000):
        training.set_rate(step, 1e-3)
        rates.append(training.optimiser.param_groups[0]["lr"])
    assert rates == [map_training.FIRST_RATE, map_training.FIRST_RATE / 2, 1e-3]


def test_a_model_without_fine_features_has_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bleed_map: tiny has no pyramid"):
        trainer(TINY, MAPPED, tmp_path)


def test_going_on_is_exact_and_the_model_alone_is_kept(cache: SliceCache, tmp_path: Path) -> None:
    whole = trainer(PYRAMID, MAPPED, tmp_path / "whole")
    names = set(whole.model.sam.state_dict())
    run(whole, cache)
    with pytest.raises(Stop):
        run(trainer(PYRAMID, MAPPED, tmp_path / "cut"), cache, stop_at=2)
    cut = trainer(PYRAMID, MAPPED, tmp_path / "cut")
    assert 0 < cut.step_count < MAPPED.steps
    run(cut, cache)
    ours, theirs = whole.model.sam.state_dict(), cut.model.sam.state_dict()
    assert set(ours) == names
    assert all(torch.equal(ours[name], theirs[name]) for name in names)
    assert heads_equal(whole.bleed_map, cut.bleed_map)
    assert not heads_equal(whole.bleed_map, trainer(PYRAMID, MAPPED, tmp_path / "new").bleed_map)


def a_map() -> BleedMap:
    """One that knows something."""
    bleed_map = BleedMap(PYRAMID.channels)
    for each in bleed_map.parameters():
        nn.init.normal_(each)
    return bleed_map


class Stop(Exception):
    """As if the process had been killed."""


def trainer(config: SamConfig, stage: StageConfig, out: Path) -> Trainer:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(config), config)
    out.mkdir(exist_ok=True)
    return Trainer(model, dict(model.sam.named_parameters()), RECIPE, stage, "base", out)


def run(trainer: Trainer, cache: SliceCache, stop_at: int = 0) -> None:
    def report(step: StepReport) -> None:
        if step.step == stop_at:
            raise Stop

    drawing = Drawing("structures", 2)
    data = NumberedBatches(PhantomSlices(cache), drawing, batch=2, seed=1, share=Share())
    trainer.run(data, report=report)


def heads_equal(one: nn.Module | None, other: nn.Module | None) -> bool:
    assert one is not None
    assert other is not None
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
