"""Weights from which a SAM can be trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CLICK_GAIN = 3.0
"""Factor of the cross-attention's initial query weights: clicks then attend to 5 % of the grid."""
BACKGROUND_LOGIT = -4.0
"""Initial logit of every pixel: that of 2 % foreground, about a lesion's share of a slice."""


def initialised(sam: nn.Module) -> nn.Module:
    """Weights from which a SAM can be trained from scratch in minutes; in place.

    segment-anything does not document its initialisation, and PyTorch's defaults fail twice. Query
    and key projections that differ carry no positions, so a click is not located on the image:
    tied, they compare position encodings from the first step on. And nothing in the decoder holds
    a constant, so "mostly background" is learnt by flattening the embedding, from which training
    does not recover: one channel is set to hold it.
    """
    encoder: Any = sam.image_encoder
    decoder: Any = sam.mask_decoder
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    attentions = [decoder.transformer.final_attn_token_to_image]
    for layer in decoder.transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    if hasattr(decoder, "context"):
        attentions.append(decoder.context.attention)
    with torch.no_grad():
        for attention in attentions:
            attention.q_proj.weight.mul_(CLICK_GAIN)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
        if hasattr(decoder, "click_maps"):  # a pyramid's: they leave the constant's channel alone
            for joining in (decoder.output_upscaling[-1].conv, encoder.patch_embed.detail):
                joining.weight[0] = 0
                joining.bias[0] = 0
            decoder.click_maps.weight[..., 0] = 0
        upscaling = decoder.output_upscaling[3]
        upscaling.weight[:, 0] = 0
        upscaling.bias[0] = 2.0  # GELU(2) = 1.95
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight[0] = 0
            head.layers[-1].bias[0] = BACKGROUND_LOGIT / 2.0
    return sam
