"""Every way to adapt SAM: what it adds, trains and leaves alone; each layer by its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samihs_runtime.errors import UsageError
from samihs_training.methods import METHODS, apply_method, count_by_part, make_method
from samihs_training.methods.lora import LoRALinear
from samihs_training.methods.visual_prompts import PromptedAttention, Prompts
from samihs_training.network.sam import build_sam, preset

from .tiny import TINY

OPTIONS: dict[str, dict[str, Any]] = {
    "pr": {"rank": 4}, "lora": {"rank": 3, "alpha": 6.0}, "bottleneck": {"rank": 5},
    "vpt": {"prompts": 2}, "decoder": {}, "full": {}, "frozen": {},
}  # fmt: skip
PARTS = {
    "pr": {"adapters", "prompt_encoder", "mask_decoder"},
    "lora": {"adapters", "prompt_encoder", "mask_decoder"},
    "bottleneck": {"adapters", "prompt_encoder", "mask_decoder"},
    "vpt": {"adapters", "prompt_encoder", "mask_decoder"},
    "decoder": {"prompt_encoder", "mask_decoder"},
    "full": {"image_encoder", "prompt_encoder", "mask_decoder"},
    "frozen": set(),
}


def adapted(name: str) -> tuple[Any, dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    sam = build_sam(TINY)
    trained = apply_method(make_method(name, OPTIONS[name]), sam)
    return sam, trained


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_every_method_is_tested() -> None:
    assert OPTIONS.keys() == PARTS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_the_parts_it_says_and_freezes_the_rest(name: str) -> None:
    sam, trained = adapted(name)
    assert count_by_part(sam, trained).keys() == PARTS[name]
    free = {each for each, parameter in sam.named_parameters() if parameter.requires_grad}
    assert free == trained.keys()
    added = count_by_part(sam, trained).get("adapters", 0)
    assert sum(p.numel() for p in sam.parameters()) == added + sum(
        p.numel() for p in build_sam(TINY).parameters()
    )


@pytest.mark.parametrize("name", ["lora", "bottleneck", "decoder", "full", "frozen"])
def test_a_method_starts_as_the_identity(name: str) -> None:
    """PR on padded windows and VPT do not: network/test_model.py has PR where nothing is padded."""
    torch.manual_seed(0)
    before = build_sam(TINY).image_encoder(image())  # type: ignore[operator]
    sam, _ = adapted(name)
    torch.testing.assert_close(sam.image_encoder(image()), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pr", "lora", "bottleneck", "vpt"])
def test_gradients_reach_all_that_a_method_adds(name: str) -> None:
    sam, trained = adapted(name)
    with torch.no_grad():  # away from the zeros that hide what lies behind them
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    sam.image_encoder(image()).square().sum().backward()
    added = {n: p for n, p in trained.items() if n.startswith("image_encoder")}
    assert added
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in added.values())
    frozen = [p for p in sam.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)


def test_lora_is_the_weight_plus_its_matrix() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(6, 8), rank=3, alpha=6.0)
    nn.init.normal_(layer.update.up)
    x = torch.randn(5, 6)
    weight = layer.linear.weight.double() + layer.update.matrix()
    assert torch.equal(
        layer.update.matrix(), 2.0 * layer.update.up.double() @ layer.update.down.double()
    )
    expected = x.double() @ weight.mT + layer.linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_prompted_attention_is_attention_over_tokens_and_prompts() -> None:
    """Against a loop over heads and queries, with segment-anything's own relative positions."""
    torch.manual_seed(0)
    attention: Any = build_sam(TINY).image_encoder.blocks[1].attn  # type: ignore[index, union-attr]
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    side, heads, width = TINY.grid, TINY.heads, TINY.width // TINY.heads
    prompts = Prompts(3, TINY.width)
    x = torch.randn(2, side, side, TINY.width)
    got = PromptedAttention(attention, prompts)(x)
    for sample in range(2):
        tokens = torch.cat([x[sample].reshape(-1, TINY.width), prompts.tokens])
        q, k, v = attention.qkv(tokens).reshape(len(tokens), 3, heads, width).unbind(1)
        for row, column in ((0, 0), (2, 5), (7, 7)):
            mixed = []
            for head in range(heads):
                query = q[row * side + column, head]
                scores = k[:, head] @ query * width**-0.5
                for at in range(side * side):
                    dy, dx = row - at // side + side - 1, column - at % side + side - 1
                    scores[at] += query @ attention.rel_pos_h[dy] + query @ attention.rel_pos_w[dx]
                mixed.append(scores.softmax(0) @ v[:, head])
            torch.testing.assert_close(
                got[sample, row, column], attention.proj(torch.cat(mixed)), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    ("name", "options", "adapters"),
    [
        ("pr", {"rank": 100}, 174_432),  # the paper's 0.17 M: 2 x 76,800 D, 24 x (100 + 768)
        ("pr", {"rank": 100, "sites": ["attn"]}, 87_216),
        ("lora", {"rank": 4}, 12 * 4 * ((768 + 2304) + (768 + 3072))),
        ("bottleneck", {"rank": 64}, 24 * (2 * 768 * 64 + 768 + 64)),
        ("vpt", {"prompts": 50}, 12 * 50 * 768),
    ],
)
def test_counts_of_vit_b(name: str, options: dict[str, Any], adapters: int) -> None:
    with torch.device("meta"):
        sam = build_sam(preset("vit_b"))
        counts = count_by_part(sam, apply_method(make_method(name, options), sam))
    assert counts == {"adapters": adapters, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("prompt", {}, "no method 'prompt': there are pr, lora"),
        ("pr", {"ranks": 3}, "method pr: unknown option ranks; known: rank, sites"),
        ("full", {"rank": 3}, "unknown option rank; known: none"),
        ("lora", {"rank": 0}, "rank 0: expected 1 or more"),
        ("bottleneck", {"sites": ["head"]}, r"sites \['head'\]: expected one or both"),
        ("vpt", {"prompts": 0}, "prompts 0: expected 1"),
    ],
)
def test_wrong_methods_and_options_are_refused(
    name: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        make_method(name, options)
