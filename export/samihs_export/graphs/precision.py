"""Which part of a graph computes in which type; strongly typed, so TensorRT does not choose.

::

    float32 always              why
    inputs, outputs             the contract
    HU window and resize        thousands of HU, a window of tens: differences of large numbers
    prompt points, click maps   sines of large angles, exponentials of squares
    a mask's second look        sums over its cells, squares of differences
    a mask's evidence           sums over its cells
    a mask's threshold          the mask is the sign of logits near it
    every LayerNorm             mean and variance of outliers overflow float16 in SAM encoders
    every softmax               exponentials and their sum (TensorRT's attention layer does this by
                                itself: its parser rejects ``Attention``'s softmax_precision)
    mask up-sampling            the mask is the sign of logits near 0

    the compute type            all other layers: convolutions, linear layers, attention products,
                                GELU, residual sums

    8 bits                      int8 and fp8 also quantize the encoder's linear layers
                                (``quantization``)
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from samihs_export.float_types import FLOAT_OF, Precision
from samihs_export.graphs.decoder_graph import PromptPoints
from samihs_export.graphs.named_layers import NamedNorm2d
from samihs_runtime.errors import ExportError
from samihs_training.network.click_maps import Clicked, ClickMaps
from samihs_training.network.mask_head import Evidence
from samihs_training.network.mask_threshold import MaskThreshold
from samihs_training.network.second_look import Review

G = TypeVar("G", bound=nn.Module)
_WIDE = (PromptPoints, ClickMaps, Clicked, Review, Evidence, MaskThreshold)
COMPUTE_TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class InFloat32(nn.Module):
    """A module that computes in float32 inside a graph of a narrower type."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x.float())
        return out.to(x.dtype)


def to_precision(graph: G, precision: Precision) -> G:
    """Set a graph's types in place, as in the table above; returns the graph.

    Raises:
        ExportError: int8 or fp8, for which the ONNX file is quantized.
    """
    if precision not in COMPUTE_TYPES:
        raise ExportError(
            f"a torch graph cannot be {precision}: export it as {FLOAT_OF[precision]} and quantize "
            "the file (samihs_export.graphs.quantization)"
        )
    if precision != "fp32":
        _narrow(graph, COMPUTE_TYPES[precision])
    return graph


def _narrow(module: nn.Module, dtype: torch.dtype) -> None:
    """Narrow the module's own tensors, then its children; what stays float32 is never rounded."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))
    for name, child in list(module.named_children()):
        if isinstance(child, nn.LayerNorm | NamedNorm2d):
            setattr(module, name, InFloat32(child))
        elif not isinstance(child, _WIDE):
            _narrow(child, dtype)
