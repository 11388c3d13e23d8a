"""What a device is asked to compute in: by its own features, not by a recipe's wish."""

from __future__ import annotations

import pytest
import torch

from samihs_training.compute.hardware import image_format, multiplies
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam
from samihs_training.stages.objective import Objective

from .test_objective import batch_of
from .tiny import TINY
from .tiny_run import RECIPE

CPU = torch.device("cpu")


def features(monkeypatch: pytest.MonkeyPatch, **there: bool) -> None:
    """A CPU with these features and no others."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there, raising=False)


@pytest.mark.parametrize(
    ("feature", "dtype"),
    [
        ("amx_bf16", torch.bfloat16),
        ("avx512_bf16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        ("amx_fp16", torch.float16),
    ],
)
def test_a_cpu_multiplies_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, feature: str, dtype: torch.dtype
) -> None:
    features(monkeypatch, avx2=True, **{feature: True})
    assert multiplies(CPU, dtype)
    features(monkeypatch, avx2=True, **{feature: False})
    assert not multiplies(CPU, dtype)


def test_a_torch_that_cannot_tell_is_taken_at_the_recipes_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert multiplies(CPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("capability", "format"),
    [
        ("DEFAULT", torch.contiguous_format),
        ("NO AVX", torch.contiguous_format),
        ("AVX2", torch.contiguous_format),
        ("AVX512", torch.channels_last),
    ],
)
def test_images_lie_as_the_cpus_convolutions_like_them(
    monkeypatch: pytest.MonkeyPatch, capability: str, format: torch.memory_format
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert image_format(CPU) is format


@pytest.mark.parametrize("there", [True, False])
def test_a_recipe_of_mixed_precision_is_computed_so_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    features(monkeypatch, amx_bf16=there)
    model = SamihsModel(build_sam(TINY), TINY)
    seen: list[torch.dtype] = []
    block = model.sam.image_encoder.blocks[0]
    block.mlp.lin1.register_forward_hook(lambda *told: seen.append(told[2].dtype))
    assert RECIPE.amp
    Objective(model, RECIPE)(batch_of(torch.ones(1, 1, 64, 64)))
    assert seen == [torch.bfloat16 if there else torch.float32]
