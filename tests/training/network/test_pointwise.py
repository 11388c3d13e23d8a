"""A 1 x 1 convolution, whichever way it is worked out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samihs_training.network.pointwise import Pointwise


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution_in_value_and_gradients(bias: bool) -> None:
    torch.manual_seed(0)
    ours = Pointwise(3, 2, bias=bias).double()
    plain = nn.Conv2d(3, 2, 1, bias=bias).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    seen = x.detach().clone().requires_grad_()
    answer, expected = ours(x), plain(seen)
    assert torch.allclose(answer, expected)
    weights = torch.randn_like(answer)
    (answer * weights).sum().backward()
    (expected * weights).sum().backward()
    assert x.grad is not None
    assert seen.grad is not None
    assert torch.allclose(x.grad, seen.grad)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad)
    with torch.no_grad():
        assert torch.allclose(ours(x), answer)
