"""The encoder in its exported form: the tensor contract around segment-anything's layers.

The contract (names, shapes, types) is defined in ``samihs_runtime.bundle.manifest``.
Pre-processing is part of the graph, so that every backend gives the same answer. The changes
to segment-anything's own forward are exact: one-channel patch embedding or pyramid with the
normalisation folded in, relative-position tables as constants, no projection of pad tokens. The
tests compare it with :class:`samihs_training.network.model.SamihsModel`.

Inputs and outputs stay float32 at every precision; ``precision.to_precision`` sets the types in
between.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from samihs_export.graphs.attention import AttentionForm, RelativeAttention, form_in
from samihs_export.graphs.graph_steps import halves, resized
from samihs_export.graphs.named_layers import name_weights
from samihs_export.graphs.upscaling import UpscalingForm, set_upscaling
from samihs_export.graphs.windows import Windows
from samihs_runtime.errors import ExportError
from samihs_training.network.model import SamihsModel
from samihs_training.network.pyramid import Pyramid
from samihs_training.network.sam import segment_anything_modeling


class EncoderGraph(nn.Module):
    """hu [B, 1, S, S] float32, window [B, 2] (low, high HU) -> embedding [B, E', G, G] float32.

    If the mirrored slice is answered as well, both run as one batch of 2B.
    """

    def __init__(
        self,
        model: SamihsModel,
        attention: AttentionForm = "bias",
        upscaling: UpscalingForm = "transposed",
    ) -> None:
        super().__init__()
        encoder = copy.deepcopy(model.sam.image_encoder)
        config = model.config
        self.image_size, self.mirrored = config.image_size, config.mirrored
        self.patch_embed: Any = one_channel_stem(
            encoder.patch_embed, config.pixel_mean, config.pixel_std
        )
        self.pos_embed = encoder.pos_embed
        self.blocks = nn.ModuleList(
            BlockGraph(block, config.grid, attention) for block in encoder.blocks
        )
        self.neck = encoder.neck
        set_upscaling(self.patch_embed, upscaling)
        name_weights(self)

    def forward(self, hu: Tensor, window: Tensor) -> Tensor:
        if not self.mirrored:
            return self._embedded(hu, window)
        both = self._embedded(torch.cat([hu, hu.flip(-1)]), torch.cat([window, window]))
        return torch.cat(halves(both), dim=1)

    def _embedded(self, hu: Tensor, window: Tensor) -> Tensor:
        low, high = window[:, 0].view(-1, 1, 1, 1), window[:, 1].view(-1, 1, 1, 1)
        image = ((hu - low) / (high - low)).clamp(0, 1)
        image = resized(image, self.image_size)
        levels = self.patch_embed.levels(image.to(self.pos_embed.dtype))
        tokens = self.patch_embed.tokens(levels) + self.pos_embed  # [B, G, G, C]
        for block in self.blocks:
            tokens = block(tokens)
        embedding = self.neck(tokens.permute(0, 3, 1, 2))
        packed: Tensor = self.patch_embed.packed(embedding, levels).float()
        return packed


class PatchStem(nn.Module):
    """SAM's patch embedding with the interface of a :class:`Pyramid`, as its only level."""

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj

    def levels(self, image: Tensor) -> Tensor:
        features: Tensor = self.proj(image)
        return features

    def tokens(self, levels: Tensor) -> Tensor:
        return levels.permute(0, 2, 3, 1)

    def packed(self, embedding: Tensor, levels: Tensor) -> Tensor:
        return embedding


def one_channel_stem(
    patch_embed: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> PatchStem | Pyramid:
    """``patch_embed`` for one channel [B, 1, H, W] in [0, 1], not yet normalised.

    A :class:`Pyramid` is changed in place.
    """
    proj = one_channel_patches(patch_embed.proj, mean, std)
    if not isinstance(patch_embed, Pyramid):
        return PatchStem(proj)
    patch_embed.proj = proj
    return patch_embed


class BlockGraph(nn.Module):
    """One encoder block: tokens [B, G, G, C] -> the same shape.

    Modules between ``norm1`` and the attention (``norm1`` itself in the authors' pad order, or an
    adapter that was not merged) act after the padding and are passed to the attention; modules
    after the attention stay there.
    """

    def __init__(self, block: Any, grid: int, form: AttentionForm) -> None:
        super().__init__()
        inner = list(block.attn) if isinstance(block.attn, nn.Sequential) else [block.attn]
        place = _place_of_attention(inner)
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        windows = Windows(grid, int(block.window_size) or grid)
        before = nn.Sequential(*inner[:place])
        self.attention = RelativeAttention(inner[place], windows, form_in(windows, form), before)
        self.after_attention = nn.Sequential(*inner[place + 1 :])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.after_attention(self.attention(self.norm1(x)))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def _place_of_attention(modules: Sequence[nn.Module]) -> int:
    theirs: Any = segment_anything_modeling().image_encoder.Attention
    for place, module in enumerate(modules):
        if isinstance(module, theirs):
            return place
    kinds = ", ".join(type(module).__name__ for module in modules)
    raise ExportError(
        f"an encoder block attends with {kinds}: expected segment-anything's Attention, the only "
        "one this export knows; methods that replace it cannot be exported"
    )


def one_channel_patches(
    conv: nn.Conv2d, mean: tuple[float, ...], std: tuple[float, ...]
) -> nn.Conv2d:
    """The patch embedding of ``(image repeated to 3 channels - mean) / std``, on one channel.

    Exact, since the convolution is linear and unpadded; folded in float64.
    """
    weight = conv.weight.detach().double()
    shift, scale = weight.new_tensor(mean), weight.new_tensor(std)
    weight = weight / scale.view(1, -1, 1, 1)
    bias = -(weight.sum((2, 3)) @ shift)
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double()
    height, width = conv.weight.shape[2:]
    folded = nn.Conv2d(1, conv.out_channels, (height, width), stride=(height, width))
    folded.weight = nn.Parameter(weight.sum(1, keepdim=True).to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return folded
