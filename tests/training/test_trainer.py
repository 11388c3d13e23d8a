"""The training loop: exact stop and resume, several processes, pieces, and what saves memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from samihs_runtime.errors import CheckpointError, SamihsError, UsageError
from samihs_training.checkpoints.tensorfile import read_safetensors
from samihs_training.compute import hardware
from samihs_training.config import StageConfig
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.sources import Drawing, PhantomSlices
from samihs_training.losses import BoundarySensitiveLoss, DiceCrossEntropyLoss
from samihs_training.methods import apply_method
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam
from samihs_training.runs.runlog import StepReport, ValidationReport, read_log
from samihs_training.stages.batches import NumberedBatches, Share
from samihs_training.stages.objective import Answered, Objective
from samihs_training.stages.optimisation import MovingAverage, learning_rate, make_optimiser
from samihs_training.stages.trainer import Trainer

from .tiny import TINY
from .tiny_run import PLAIN, RECIPE, one_step

ROOT = Path(__file__).parents[2]
FP32 = replace(RECIPE, amp=False)
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    return open_cache(tmp_path_factory.mktemp("cache"), CacheSpec("train", 5, matrix=128))


def tiny_run(*arguments: str, processes: int = 1) -> int:
    """Exit status of ``tests.training.tiny_run``, by torchrun where several processes are asked."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*launch, "tests.training.tiny_run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode > 0:
        print(done.stderr[-3000:])
    return done.returncode


@pytest.fixture(scope="module")
def alone(cache: SliceCache) -> Gradients:
    return one_step(cache.home, PLAIN, FP32)


def assert_close(got: Gradients, wanted: Gradients, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of each tensor's largest entry: sums in another order, in float32.

    A bias of keys shifts all scores alike: its gradient is zero but for rounding, which comes from
    numbers of the other gradients' size. So a tensor counts as no smaller than a thousandth of it.
    """
    assert got.keys() == wanted.keys()
    floor = 1e-3 * max(float(tensor.abs().max()) for tensor in wanted.values())
    for name, tensor in wanted.items():
        scale = tensor.abs().max().clamp(min=floor)
        assert ((got[name] - tensor).abs().max() / scale) < tolerance, name


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL in each stage, before the step was saved; then on, against a run left alone."""
    assert tiny_run("fit", str(tmp_path / "whole")) == 0
    assert tiny_run("fit", str(tmp_path / "cut"), "base", "3") == -9
    assert tiny_run("fit", str(tmp_path / "cut"), "adapt", "2") == -9
    assert tiny_run("fit", str(tmp_path / "cut"), "score", "3") == -9
    assert tiny_run("fit", str(tmp_path / "cut")) == 0
    for name in ("base", "adapters", "adapters.best"):
        whole, about = read_safetensors(tmp_path / "whole" / f"{name}.safetensors")
        cut, also = read_safetensors(tmp_path / "cut" / f"{name}.safetensors")
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[each], cut[each]) for each in whole), name
        assert about["steps"] == also["steps"]
    rows = read_log(tmp_path / "cut", StepReport)
    assert [(row.stage, row.step) for row in rows] == [
        (stage, step) for stage in ("base", "adapt", "score") for step in (1, 2, 3, 4)
    ]
    expected = read_log(tmp_path / "whole", StepReport)
    assert [row.loss for row in rows] == [row.loss for row in expected]
    checks = read_log(tmp_path / "cut", ValidationReport)
    assert checks == read_log(tmp_path / "whole", ValidationReport)
    assert [check.step for check in checks] == [2, 4, 2, 4]


def test_two_processes_give_the_gradients_of_one(
    tmp_path: Path, cache: SliceCache, alone: Gradients
) -> None:
    assert tiny_run("gradients", str(cache.home), str(tmp_path / "got.pt"), processes=2) == 0
    assert_close(torch.load(tmp_path / "got.pt", weights_only=True), alone)


def test_torchrun_runs_a_whole_recipe(tmp_path: Path) -> None:
    """All stages in two processes: each step stands once in the log, the checkpoints are whole."""
    assert tiny_run("fit", str(tmp_path), processes=2) == 0
    rows = read_log(tmp_path, StepReport)
    assert [row.step for row in rows] == [1, 2, 3, 4] * 3
    assert len(read_log(tmp_path, ValidationReport)) == 4
    _, about = read_safetensors(tmp_path / "adapters.safetensors")
    assert about["steps"] == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's compiler, in torch
def test_a_compiled_encoder_gives_the_same_gradients(cache: SliceCache, alone: Gradients) -> None:
    assert_close(one_step(cache.home, replace(PLAIN, compile=True), FP32), alone, tolerance=1e-4)


def test_pieces_give_the_gradients_of_the_whole(cache: SliceCache, alone: Gradients) -> None:
    assert_close(one_step(cache.home, replace(PLAIN, accumulate=2), FP32), alone)


def test_recomputed_activations_give_the_same_gradients(
    cache: SliceCache, alone: Gradients
) -> None:
    stage = replace(PLAIN, checkpoint_activations=True)
    assert_close(one_step(cache.home, stage, FP32), alone, tolerance=1e-6)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_gives_nearly_the_gradients(
    cache: SliceCache, alone: Gradients, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of fp16's loss is gone again from the gradients; 16 bits lose some of each."""
    monkeypatch.setattr(hardware, "multiplies", lambda device, dtype: True)
    recipe = replace(FP32, amp=True, amp_dtype=dtype)  # type: ignore[arg-type]
    got = one_step(cache.home, PLAIN, recipe)
    whole = torch.cat([alone[name].flatten() for name in sorted(alone)])
    mixed = torch.cat([got[name].flatten() for name in sorted(alone)])
    assert nn.functional.cosine_similarity(whole, mixed, dim=0) > 0.98
    assert 0.8 < mixed.norm() / whole.norm() < 1.25


def test_the_norm_of_a_step_is_clipped(cache: SliceCache) -> None:
    got = one_step(cache.home, replace(PLAIN, clip=1e-3), FP32)
    norm = torch.stack([g.norm() for name, g in got.items() if name != "loss"]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: SliceCache
) -> None:
    from samihs_training.methods import apply_method
    from samihs_training.network.model import SamihsModel
    from samihs_training.network.sam import build_sam
    from samihs_training.stages import objective
    from samihs_training.stages.trainer import Trainer

    from .tiny import TINY

    monkeypatch.setattr(objective, "score_loss", lambda *given: torch.tensor(torch.nan))
    sam = build_sam(TINY)
    trained = apply_method(FP32.make_method(), sam)
    trainer = Trainer(SamihsModel(sam, TINY), trained, FP32, PLAIN, "adapt", tmp_path)
    drawing = Drawing("bleeds", prompts=2)
    data = NumberedBatches(PhantomSlices(cache), drawing, batch=4, seed=3, share=Share())
    with pytest.raises(SamihsError, match="stage adapt: the loss is nan at step 1"):
        trainer.run(data)


def test_processes_share_each_epoch_without_overlap(cache: SliceCache) -> None:
    world, batch = 2, 4
    source, drawing = PhantomSlices(cache), Drawing("bleeds", prompts=1)
    parts = [
        NumberedBatches(source, drawing, batch=batch, seed=1, share=Share(rank, world, 2))
        for rank in range(world)
    ]
    taken = [
        position for step in range(5) for part in parts for piece in range(2)
        for position in part.positions(step, piece)
    ]  # fmt: skip
    assert sorted(taken) == list(range(5 * batch))
    slices = [parts[0].slice_at(position) for position in range(20)]
    assert all(sorted(slices[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert slices[:5] != slices[5:10]


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_every_held_out_slice_is_validated_once_whatever_the_batch(
    tmp_path: Path, cache: SliceCache, batch: int
) -> None:
    """Five slices: in batches of one, in two and one over, in fewer than one batch."""
    torch.manual_seed(0)
    sam = build_sam(TINY)
    trainer = Trainer(SamihsModel(sam, TINY), {}, FP32, PLAIN, "adapt", tmp_path)
    drawing = Drawing("bleeds", prompts=2, vary=False)

    def validated(batch: int) -> Answered:
        data = NumberedBatches(PhantomSlices(cache), drawing, batch=batch, seed=0, share=Share())
        return trainer.validate(data)

    one_by_one, got = validated(1), validated(batch)
    assert got.prompts == 2 * len(cache)
    assert 0 < got.with_mask == one_by_one.with_mask
    assert got.dice == pytest.approx(one_by_one.dice, rel=1e-5)
    assert got.iou == pytest.approx(one_by_one.iou, rel=1e-5)
    assert got.loss.item() == pytest.approx(one_by_one.loss.item(), rel=1e-4)


def test_processes_share_the_held_out_slices(cache: SliceCache) -> None:
    source, drawing = PhantomSlices(cache), Drawing("bleeds", prompts=1, vary=False)
    alone, *parts = (
        NumberedBatches(source, drawing, batch=4, seed=0, share=share)
        for share in (Share(), Share(0, 2), Share(1, 2))
    )
    whole = torch.cat([each.hu for each in alone.epoch()])
    shared = torch.cat([each.hu for part in parts for each in part.epoch()])
    assert len(whole) == len(shared) == len(cache)
    assert torch.equal(whole.sum((1, 2, 3)).sort().values, shared.sum((1, 2, 3)).sort().values)
    assert [len(each.hu) for each in alone.epoch()] == [4, 1]


def test_the_authors_schedule_is_their_steplr() -> None:
    stage = StageConfig(
        steps=70, learning_rate=5e-4, optimiser="adam", schedule="step", halve_every=30,
        weight_decay=0.0,
    )  # fmt: skip
    (optimiser,) = make_optimiser({"one": nn.Parameter(torch.zeros(1))}, stage)
    assert type(optimiser) is torch.optim.Adam
    theirs = torch.optim.lr_scheduler.StepLR(optimiser, step_size=30, gamma=0.5)
    for step in range(70):
        assert learning_rate(stage, step) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()


def test_muon_takes_the_matrices_of_the_blocks_and_steps_with_the_size_of_adamw() -> None:
    torch.manual_seed(0)
    trained = dict(build_sam(TINY).named_parameters())
    stage = StageConfig(steps=1, learning_rate=1e-3, optimiser="muon", weight_decay=0.0)
    optimisers = make_optimiser(trained, stage)
    matrices = {"attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"}
    muons = {id(p) for p in list(optimisers)[1].param_groups[0]["params"]}
    names = [name for name, each in trained.items() if id(each) in muons]
    assert {name.split(".", 3)[3].removesuffix(".weight") for name in names} == matrices
    before = {name: each.detach().clone() for name, each in trained.items()}
    for each in trained.values():
        each.grad = torch.randn_like(each)
    for optimiser in optimisers:
        optimiser.step()
    for name, each in trained.items():
        step = (each.detach() - before[name]).square().mean().sqrt().item()
        assert step == pytest.approx(1e-3 if name not in names else 2e-4, rel=0.3), name


def test_a_state_of_another_base_is_not_gone_on_with(tmp_path: Path) -> None:
    def begun(base: str) -> Trainer:
        sam = build_sam(TINY)
        trained = apply_method(FP32.make_method(), sam)
        model = SamihsModel(sam, TINY)
        return Trainer(model, trained, FP32, PLAIN, "adapt", tmp_path, base_sha256=base)

    begun("one")._save()
    assert begun("one").step_count == 0
    with pytest.raises(CheckpointError, match="trained on another base"):
        begun("other")


def test_a_stage_may_have_a_loss_of_its_own() -> None:
    base = StageConfig(steps=1, learning_rate=1e-3, loss="dice_bce", loss_options={"weight": 0.1})
    recipe = replace(RECIPE, base=base)
    assert recipe.make_loss(recipe.base) == DiceCrossEntropyLoss(weight=0.1)
    assert recipe.make_loss(recipe.adapt) == recipe.make_loss() == BoundarySensitiveLoss()
    model = SamihsModel(build_sam(TINY), TINY)
    assert Objective(model, recipe, base).loss == DiceCrossEntropyLoss(weight=0.1)


def test_the_moving_average_is_what_it_says_and_off_by_default() -> None:
    weight = nn.Parameter(torch.zeros(2))
    average = MovingAverage([weight], decay=0.75)
    for step, value in ((100, 1.0), (101, 2.0)):
        with torch.no_grad():
            weight.fill_(value)
        average.update(step)
    with average.in_place():
        assert weight.tolist() == [0.6875, 0.6875]  # 0.75 (0.75 x 0 + 0.25 x 1) + 0.25 x 2
    assert weight.tolist() == [2.0, 2.0]
    off = MovingAverage([weight], decay=PLAIN.ema)
    with off.in_place():
        assert weight.tolist() == [2.0, 2.0]
    assert off.averages == []


def test_a_short_stages_average_is_of_its_last_weights() -> None:
    weight = nn.Parameter(torch.zeros(1))
    average = MovingAverage([weight], decay=0.998)
    with torch.no_grad():
        weight.fill_(1.0)
    for step in range(100):
        average.update(step)
    with average.in_place():
        assert weight.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"accumulate": 3}, "divides batch = 4"),
        ({"ema": 1.0}, "from 0 .off. to below 1"),
        ({"optimiser": "sgd"}, "optimiser = 'sgd': expected adamw or adam"),
        ({"schedule": "flat"}, "expected cosine or step"),
    ],
)
def test_wrong_options_of_a_stage_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        replace(PLAIN, **change)  # type: ignore[arg-type]
