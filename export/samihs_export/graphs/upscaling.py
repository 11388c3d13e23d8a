"""Up-sampling by 2 x 2 transposed convolutions of stride 2, in two exact forms.

The encoder of a pyramid up-samples by them, and its features join SAM's masks between two of them
(``cells`` has SAM's masks without a pyramid).

::

    transposed  one ConvTranspose                    supported by every backend
    product     a matrix product, DepthToSpace       TensorRT-RTX 1.7 has no bfloat16 ConvTranspose

The windows of such a convolution do not overlap: each pixel becomes its own 2 x 2 block.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

UpscalingForm = Literal["transposed", "product"]


class BlockUpscaling(nn.Module):
    """``nn.ConvTranspose2d(C, O, 2, stride=2)`` as a product: x [B, C, H, W] -> [B, O, 2H, 2W]."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = conv.weight.detach()  # [C, O, 2, 2]
        self.weight = nn.Parameter(weight.flatten(1).mT.contiguous())  # [4 O, C]
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.bias = nn.Parameter(bias[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        blocks = (self.weight @ x.flatten(2)).reshape(-1, self.weight.shape[0], height, width)
        enlarged: Tensor = F.pixel_shuffle(blocks, 2) + self.bias
        return enlarged


def set_upscaling(module: nn.Module, form: UpscalingForm) -> None:
    """Put every 2 x 2 transposed convolution of stride 2 in the module into the given form."""
    if form == "transposed":
        return
    for name, child in list(module.named_children()):
        if isinstance(child, nn.ConvTranspose2d) and _in_blocks(child):
            setattr(module, name, BlockUpscaling(child))
        else:
            set_upscaling(child, form)


def _in_blocks(conv: nn.ConvTranspose2d) -> bool:
    plain = conv.groups == 1 and conv.dilation == (1, 1)
    unpadded = conv.padding == (0, 0) and conv.output_padding == (0, 0)
    return plain and unpadded and conv.kernel_size == (2, 2) == conv.stride
