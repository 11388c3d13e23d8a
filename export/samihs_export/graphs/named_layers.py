"""Layers whose ONNX weights keep their names.

torch stores a linear layer's weight as [out, in] and ONNX multiplies by [in, out], so the exporter
transposes it into a constant called ``val_35``; segment-anything's ``LayerNorm2d`` reshapes its
weight at each call, into ``unsqueeze_3``. Weights stored in the shape in which they are used keep
their name in the graph, such as ``blocks.3.mlp.lin1.weight``: the name by which precision plans,
refitting and reports refer to a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samihs_training.network.click_maps import ClickMaps
from samihs_training.network.mask_threshold import MaskThreshold
from samihs_training.network.sam import segment_anything_modeling


class NamedLinear(nn.Module):
    """``x @ weight + bias`` with weight [in, out]; x [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().mT.contiguous())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach())

    def forward(self, x: Tensor, *, biased: bool = True) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None or not biased else product + self.bias


class NamedNorm2d(nn.Module):
    """segment-anything's ``LayerNorm2d``: over the channels of x [B, C, H, W]."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach()[:, None, None])
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None])
        self.eps = float(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        variance = centred.pow(2).mean(1, keepdim=True)
        out: Tensor = self.weight * (centred / torch.sqrt(variance + self.eps)) + self.bias
        return out


class NamedClickMaps(ClickMaps):
    """The pyramid's click maps, with their weight in the shape of the product: [4, 3 D]."""

    def __init__(self, maps: ClickMaps) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(maps.weight.detach().flatten(1))
        for name, buffer in maps.named_buffers():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        return self.drawn(self.weight, points, labels)


class ExchangeableThreshold(MaskThreshold):
    """The masks' threshold as a parameter, since a site's adapters have their own."""

    def __init__(self, threshold: MaskThreshold) -> None:
        nn.Module.__init__(self)
        self.logit = nn.Parameter(threshold.logit.detach().clone())


def name_weights(module: nn.Module) -> None:
    """Replace every layer in the module for which there is one above."""
    theirs: Any = segment_anything_modeling().common.LayerNorm2d
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, NamedLinear(child))
        elif isinstance(child, theirs):
            setattr(module, name, NamedNorm2d(child))
        elif isinstance(child, ClickMaps):
            setattr(module, name, NamedClickMaps(child))
        elif isinstance(child, MaskThreshold):
            setattr(module, name, ExchangeableThreshold(child))
        else:
            name_weights(child)
