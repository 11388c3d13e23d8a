"""Muon: orthogonal steps, as torch's own takes them, in a type that the device multiplies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from samihs_training.checkpoints.tensorfile import read_safetensors
from samihs_training.config import Recipe, StageConfig
from samihs_training.fit import fit
from samihs_training.network.sam import PRESETS
from samihs_training.runs.runlog import StepReport
from samihs_training.stages import muon
from samihs_training.stages.muon import Muon, orthogonal

from .tiny import PYRAMID

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = ((12, 12), (36, 12), (12, 48), (36, 12))


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the device is said to multiply bfloat16."""
    there: bool = request.param
    monkeypatch.setattr(muon, "multiplies", lambda device, dtype: there)
    return there


def matrices() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape) for shape in SHAPES]


@pytest.mark.usefixtures("bfloat16")
def test_steps_are_those_of_torch() -> None:
    """Whose own are in bfloat16, of three digits."""
    ours, theirs = ([nn.Parameter(each.clone()) for each in matrices()] for _ in range(2))
    optimisers = (
        Muon(ours, 1e-2, 0.1),
        torch.optim.Muon(theirs, 1e-2, 0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        torch.manual_seed(10 + step)
        gradients = [torch.randn(shape) for shape in SHAPES]
        for parameters, optimiser in zip((ours, theirs), optimisers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimiser.step()
    for start, one, other in zip(matrices(), ours, theirs, strict=True):
        moved, expected = one.detach() - start, other.detach() - start
        assert (moved - expected).norm() < 0.03 * expected.norm()


def test_singular_values_come_near_1(bfloat16: bool) -> None:
    given = matrices()
    kept = [each.clone() for each in given]
    done = orthogonal(given, COEFFICIENTS, 5, 1e-7)
    for before, matrix, shape in zip(kept, done, SHAPES, strict=True):
        assert matrix.shape == shape
        assert matrix.dtype == torch.float32
        u, values, v = torch.linalg.svd(before, full_matrices=False)
        reached = torch.linalg.svdvals(matrix)
        large = values > 0.2 * values.max()  # five iterations do not lift the smallest
        assert reached[: int(large.sum())].min() > 0.6
        assert reached.max() < 1.3
        turned = (u.T @ matrix @ v.T).diagonal()[large]  # the same directions as before
        assert turned.min() > 0.6, bfloat16
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))


def test_a_matrix_without_a_gradient_stays() -> None:
    parameters = [nn.Parameter(each) for each in matrices()]
    parameters[0].grad = torch.ones(SHAPES[0])
    before = [each.detach().clone() for each in parameters]
    Muon(parameters, 1e-2).step()
    changed = [not torch.equal(a, b) for a, b in zip(parameters, before, strict=True)]
    assert changed == [True, False, False, False]


def test_nothing_at_all_is_no_step() -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([parameter], 1e-2, 0.0).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def test_a_state_of_torchs_own_is_gone_on_with() -> None:
    """Runs that were begun before this class was."""
    parameter = nn.Parameter(torch.ones(4, 6))
    parameter.grad = torch.randn(4, 6)
    theirs = torch.optim.Muon([parameter], 1e-2, adjust_lr_fn="match_rms_adamw")
    theirs.step()
    ours = Muon([parameter], 1e-2)
    ours.load_state_dict(theirs.state_dict())
    held = [each.state[parameter]["momentum_buffer"] for each in (ours, theirs)]
    assert torch.equal(*held)
    ours.step()


class Stopped(Exception):
    pass


def test_a_stopped_stage_of_muon_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "pyramid", PYRAMID)
    stage = StageConfig(steps=1, learning_rate=1e-3, batch=2, prompts=1, correct=0.5)
    base = replace(stage, steps=4, optimiser="muon", bleed_map=1.0)
    recipe = Recipe(base=base, adapt=stage, preset="pyramid", slices=3, rank=3)
    recipe = replace(recipe, checkpoint_minutes=0.0)

    def stop(step: StepReport) -> None:
        if (step.stage, step.step) == ("base", 3):
            raise Stopped

    fit(recipe, tmp_path / "whole", workers=0)
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "cut", workers=0, report=stop)
    fit(recipe, tmp_path / "cut", workers=0, resume=True)
    for name in ("base.safetensors", "adapters.safetensors"):
        (whole, _), (cut, _) = (
            read_safetensors(tmp_path / each / name) for each in ("whole", "cut")
        )
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[each], cut[each]) for each in whole), name
