"""A convolutional pyramid in place of SAM's patch embedding, and its features for the decoder.

A transformer that is trained from scratch in an hour learns edges late if at all; strided
convolutions know them from the start (Xiao et al., "Early convolutions help transformers see
better", NeurIPS 2021). The first has no overlap and no padding, so that the normalisation of the
image still folds into it exactly (``samihs_export.graphs.encoder_graph``).

Extra-axial blood is often thinner than a token. So the pyramid is also descended again, as in a
U-Net, from the encoder's embedding to half the image's size, once per slice. Two of its levels go
to the mask decoder, as in SAM 2 and HQ-SAM: the *detail* at a quarter of the image's size is added
to the decoder's up-sampled cells; the *fine* features at half size are weighted by the click and
added to the enlarged answer, which makes the mask twice as fine as SAM's. The interface between
encoder and decoder stays one tensor: both are packed into further channels of the embedding
(:func:`pack`).
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.compute.hardware import image_format
from samihs_training.network.pointwise import Pointwise

CELLS = 4
"""Cells along a token's side in SAM's decoder, and in the detail."""
FINE_CELLS = 8
"""Cells along a token's side in the fine features, and in the mask."""
LAYERS_BEFORE_DETAIL = 4
"""Layers of SAM's ``output_upscaling`` before the detail joins; an activation follows."""


class Levels(NamedTuple):
    """Features of one image [B, 3, H, W], fine to coarse."""

    half: Tensor
    """[B, F, H/2, W/2]."""
    quarter: Tensor
    """[B, 2F, H/4, W/4]."""
    eighth: Tensor
    """[B, 4F, H/8, W/8]."""


class Channels(NamedTuple):
    """How the channels of the embedding are divided up."""

    embedding: int
    """E."""
    detail: int
    """D per cell: 16 D per token."""
    fine: int
    """K per mask cell: 64 K per token."""


class Pyramid(nn.Module):
    """image [B, 3, H, W] -> tokens [B, H/16, W/16, C]: what SAM's ``PatchEmbed`` gives."""

    stride = 16

    def __init__(self, width: int, fine_width: int, channels: Channels) -> None:
        """``width``: token width C. ``fine_width``: channels F at half size. ``channels``: of
        the outputs."""
        super().__init__()
        half, quarter, eighth = fine_width, 2 * fine_width, 4 * fine_width
        self.proj = nn.Conv2d(3, half, 2, stride=2)
        self.to_quarter = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.to_eighth = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.to_tokens = nn.Conv2d(eighth, width, 3, stride=2, padding=1)

        self.eighth = Descent(channels.embedding, eighth)
        self.quarter = Descent(eighth, quarter)
        self.halves = Descent(quarter, half)
        self.sharpen_eighth = Residual(eighth)
        self.sharpen_quarter = Residual(quarter)
        self.sharpen = Residual(half)
        self.detail = Pointwise(quarter, channels.detail)
        self.fine = Pointwise(half, channels.fine)

    def forward(self, image: Tensor) -> Tensor:
        return self.tokens(self.levels(image))

    def levels(self, image: Tensor) -> Levels:
        """Features of an image [B, 3, H, W] (one channel once folded)."""
        half = F.gelu(self.proj(image))
        quarter = F.gelu(self.to_quarter(half))
        return Levels(half, quarter, F.gelu(self.to_eighth(quarter)))

    def tokens(self, levels: Levels) -> Tensor:
        """[B, H/16, W/16, C]."""
        tokens: Tensor = self.to_tokens(levels.eighth)
        return tokens.permute(0, 2, 3, 1)

    def packed(self, embedding: Tensor, levels: Levels) -> Tensor:
        """The encoder's embedding [B, E, G, G] and the results of the descent from it, packed."""
        eighth = self.sharpen_eighth(self.eighth(embedding, levels.eighth))
        quarter = self.sharpen_quarter(self.quarter(eighth, levels.quarter))
        half = self.sharpen(self.halves(quarter, levels.half))
        return pack(embedding, self.detail(quarter), self.fine(half))


class Descent(nn.Module):
    """Coarse features [B, A, H, W] and a level [B, C, 2H, 2W] -> [B, C, 2H, 2W]."""

    def __init__(self, coarse: int, channels: int) -> None:
        super().__init__()
        self.raised = nn.ConvTranspose2d(coarse, channels, 2, stride=2)
        self.lateral = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, coarse: Tensor, level: Tensor) -> Tensor:
        return F.gelu(self.raised(coarse) + self.lateral(level))


class Residual(nn.Module):
    """Features [B, C, H, W] -> the same plus the output of two convolutions, which starts at zero.

    A speck of blood is a few pixels among noise as strong as itself: one convolution sees too
    little of either.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for each in self.second.parameters():
            nn.init.zeros_(each)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.second(F.gelu(self.first(features)))
        return features + added


def encoded(encoder: Any, image: Tensor) -> Tensor:
    """SAM's image encoder with a pyramid: image [B, 3, H, W] -> packed embedding."""
    pyramid: Pyramid = encoder.patch_embed
    levels = pyramid.levels(image)
    tokens = pyramid.tokens(levels) + encoder.pos_embed
    for block in encoder.blocks:
        tokens = block(tokens)
    return pyramid.packed(encoder.neck(tokens.permute(0, 3, 1, 2)), levels)


def compile_encoder(encoder: Any) -> None:
    """torch.compile SAM's image encoder, or only its pyramid, if it has one.

    On a CPU, the pyramid's activations and additions at half the image's size then take little time
    beside its convolutions. The blocks, which gain nothing from it, take minutes to compile. Where
    torch cannot compile (for a CPU it needs a C++ compiler and Python's headers), this warns and
    leaves the encoder as it is. Convolutions keep the layout that suits the device: left to itself,
    the compiler makes all of them channels last.
    """
    pyramid = encoder.patch_embed
    device = next(encoder.parameters()).device
    options = {"layout_optimization": image_format(device) is torch.channels_last}
    missing = _missing_to_compile(device)
    if missing:
        warnings.warn(f"training goes on without compile: {missing}", stacklevel=2)
    elif isinstance(pyramid, Pyramid):
        compiled: Any = partial(torch.compile, options=options)
        pyramid.levels = compiled(pyramid.levels)  # type: ignore[method-assign]
        pyramid.packed = compiled(pyramid.packed)  # type: ignore[method-assign]
    else:
        encoder.compile(options=options)


def _missing_to_compile(device: torch.device) -> str:
    """Torch's error on compiling a function of one line; empty if that works."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of torch's, of its compilers', of the system's
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


class Smoothing(nn.Module):
    """Cells [B, D, H, W] -> the same: each sees its neighbours, also those of other tokens.

    SAM's up-sampling does not overlap; without this, masks show the grid of its tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, cells: Tensor) -> Tensor:
        smooth: Tensor = cells + F.gelu(self.conv(cells))
        return smooth


def pack(embedding: Tensor, detail: Tensor, fine: Tensor) -> Tensor:
    """[B, E, G, G], [B, D, 4G, 4G] and [B, K, 8G, 8G] -> [B, E + 16 D + 64 K, G, G]."""
    cells = F.pixel_unshuffle(detail, CELLS), F.pixel_unshuffle(fine, FINE_CELLS)
    return torch.cat([embedding, *cells], dim=1)


def unpack(packed: Tensor, channels: Channels) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`pack` was given."""
    detail = channels.embedding + CELLS**2 * channels.detail
    return (
        packed[:, : channels.embedding],
        F.pixel_shuffle(packed[:, channels.embedding : detail], CELLS),
        F.pixel_shuffle(packed[:, detail:], FINE_CELLS),
    )


def upscaled_with_detail(upscaling: nn.Sequential, source: Tensor, detail: Tensor) -> Tensor:
    """SAM's ``output_upscaling`` of [B, E, G, G] -> [B, D, 4G, 4G], with ``detail`` added.

    It is added before an activation, so that a mask is a function of both, not a sum.
    """
    layers = list(upscaling)
    for layer in layers[:LAYERS_BEFORE_DETAIL]:
        source = layer(source)
    source = source + detail
    for layer in layers[LAYERS_BEFORE_DETAIL:]:
        source = layer(source)
    return source


def upsampled_twice(logits: Tensor) -> Tensor:
    """[B, 1, 4G, 4G] -> [B, 1, 8G, 8G], in float32: the sign decides the mask."""
    return F.interpolate(logits.float(), scale_factor=2, mode="bilinear", align_corners=False)
