"""Encoder and decoder as they are exported: the tensor contract around segment-anything's layers.

The contract (names, shapes, types) stands in ``samihs_runtime.manifest``. Pre- and post-processing
are inside, so that every backend gives the same answer. What differs from segment-anything's own
forward is exact: one-channel patch embedding or pyramid with the normalisation folded in,
relative-position tables as constants, no projection of pad tokens, ``where`` for masked assignment.
The tests hold both against :class:`samihs_training.model.SamihsModel`.

Inputs and outputs stay float32 at every precision; ``precision.to_precision`` sets what lies
between.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_export.attention import (
    AttentionForm,
    RelativeAttention,
    form_in,
)
from samihs_export.cells import TokenUpscaling, in_rows
from samihs_export.named_layers import name_weights
from samihs_export.two_way import make_attention_exportable
from samihs_export.upscaling import UpscalingForm, set_upscaling
from samihs_export.windows import Windows
from samihs_runtime.errors import ExportError
from samihs_training.mask_head import gated
from samihs_training.mirror import mirrored_points
from samihs_training.model import SamihsModel
from samihs_training.pyramid import Channels, Pyramid, joined, unpack
from samihs_training.sam import segment_anything_modeling


class EncoderGraph(nn.Module):
    """hu [B, 1, S, S] float32, window [B, 2] (low, high HU) -> embedding [B, E', G, G] float32.

    Where the mirrored slice is asked as well, both run as one batch of 2B.
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
        return torch.cat(_halves(both), dim=1)

    def _embedded(self, hu: Tensor, window: Tensor) -> Tensor:
        low, high = window[:, 0].view(-1, 1, 1, 1), window[:, 1].view(-1, 1, 1, 1)
        image = ((hu - low) / (high - low)).clamp(0, 1)
        image = _resized(image, self.image_size)
        levels = self.patch_embed.levels(image.to(self.pos_embed.dtype))
        tokens = self.patch_embed.tokens(levels) + self.pos_embed  # [B, G, G, C]
        for block in self.blocks:
            tokens = block(tokens)
        embedding = self.neck(tokens.permute(0, 3, 1, 2))
        packed: Tensor = self.patch_embed.packed(embedding, levels).float()
        return packed


class PatchStem(nn.Module):
    """SAM's patch embedding with the interface of a :class:`Pyramid`, whose one level it is."""

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
    """``patch_embed`` for one channel [B, 1, H, W] in [0, 1] that is not yet normalised.

    A :class:`Pyramid` is changed in place.
    """
    proj = one_channel_patches(patch_embed.proj, mean, std)
    if not isinstance(patch_embed, Pyramid):
        return PatchStem(proj)
    patch_embed.proj = proj
    return patch_embed


class BlockGraph(nn.Module):
    """One encoder block: tokens [B, G, G, C] -> the same shape.

    What stands between ``norm1`` and the attention (``norm1`` itself in the authors' pad order, or
    an adapter that was not merged) acts after the padding, and is handed to the attention; what
    stands after the attention stays there.
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
        f"an encoder block attends with {kinds}: expected segment-anything's Attention, which this "
        "export knows; methods that replace it cannot be exported"
    )


class DecoderGraph(nn.Module):
    """Prompt i on embedding i; names and shapes as the contract has them.

    Where the mirrored slice is asked as well, both are asked as one batch of 2B.
    """

    position: Tensor
    """Buffer [1, E, G, G]: where each token of the embedding lies."""

    def __init__(
        self, model: SamihsModel, slice_size: int, upscaling: UpscalingForm = "transposed"
    ) -> None:
        super().__init__()
        prompt = copy.deepcopy(model.sam.prompt_encoder)
        decoder = copy.deepcopy(model.sam.mask_decoder)
        self.image_size, self.slice_size = model.config.image_size, slice_size
        self.mask_size, self.mirrored = model.config.mask_size, model.config.mirrored
        self.points = PromptPoints(prompt, model.config.image_size, slice_size)
        self.mask_downscaling = prompt.mask_downscaling
        self.no_mask = nn.Parameter(prompt.no_mask_embed.weight.detach().view(1, -1, 1, 1))
        self.register_buffer("position", prompt.get_dense_pe().detach())  # [1, E, G, G]
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.tokens = nn.Parameter(tokens.detach()[None])  # [1, 5, E]
        make_attention_exportable(decoder)
        self.transformer = decoder.transformer
        self.cells: PlainCells | FineCells = (
            FineCells(decoder, model.config.channels, self.image_size / slice_size)
            if model.config.pyramid_width
            else PlainCells(decoder)
        )
        self.score_head = decoder.iou_prediction_head
        set_upscaling(self.cells, upscaling)
        name_weights(self)

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, prior: Tensor, has_prior: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not self.mirrored:
            logits, score = self._answered(embedding, points, labels, prior, has_prior)
        else:
            logits, score = self._averaged(embedding, points, labels, prior, has_prior)
        mask = _resized(logits, self.slice_size)[:, 0] > 0
        return logits, mask.to(torch.uint8), score

    def _averaged(
        self, embedding: Tensor, points: Tensor, labels: Tensor, prior: Tensor, has_prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean of the slice's answer and, turned back, its mirror's."""
        there = mirrored_points(points, labels, self.slice_size)
        logits, score = self._answered(
            torch.cat(embedding.chunk(2, dim=1)),
            torch.cat([points, there]),
            torch.cat([labels, labels]),
            torch.cat([prior, prior.flip(-1)]),
            torch.cat([has_prior, has_prior]),
        )
        (ours, theirs), scores = _halves(logits), _halves(score)
        return (ours + theirs.flip(-1)) / 2, (scores[0] + scores[1]) / 2

    def _answered(
        self, embedding: Tensor, points: Tensor, labels: Tensor, prior: Tensor, has_prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = self.tokens.dtype
        packed = embedding.to(dtype)
        source = packed[:, : self.position.shape[1]]
        sparse = self.points(points, labels).to(dtype)  # [B, N, E]
        prior = self.mask_downscaling(self.cells.prior(prior.to(dtype)))
        dense = torch.where(has_prior.view(-1, 1, 1, 1) > 0.5, prior, self.no_mask)
        tokens = torch.cat([self.tokens.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        answers, mixed = self.transformer(source + dense, self.position, tokens)
        clicked = Clicked(mixed, self.position, answers[:, 1], points, labels)
        logits, evidence = self.cells(packed, clicked)
        return logits, self.score_head(answers[:, 0])[:, 0].float() + evidence


class Clicked(NamedTuple):
    """What the transformer made of the embedding and the prompts, and the prompts themselves."""

    tokens: Tensor
    """[B, G G, E]: the image's."""
    position: Tensor
    """[1, E, G, G]."""
    answer: Tensor
    """[B, E]: of the mask's token."""
    points: Tensor
    """[B, N, 2], slice pixels."""
    labels: Tensor
    """[B, N]."""

    @property
    def source(self) -> Tensor:
        """The image's tokens in rows and columns: [B, E, G, G]."""
        return self.tokens.mT.reshape(-1, *self.position.shape[1:])


class PlainCells(nn.Module):
    """The mask as SAM's decoder gives it: logits [B, 1, 4G, 4G]."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.upscaling = TokenUpscaling(decoder.output_upscaling)
        self.hypernetwork = decoder.output_hypernetworks_mlps[0]

    def prior(self, logits: Tensor) -> Tensor:
        """A prior mask at the size that SAM's prompt encoder takes."""
        return logits

    def forward(self, packed: Tensor, clicked: Clicked) -> tuple[Tensor, Tensor | float]:
        """Float32 logits, and what is added to the score. ``packed`` [B, E', G, G]: the encoder's
        embedding."""
        weights = self.hypernetwork(clicked.answer)
        cells = self.upscaling(clicked.tokens) @ weights[..., None]  # [B, 16 G G, 1]
        return in_rows(cells, clicked.position.shape[-1]).float(), 0.0


class FineCells(nn.Module):
    """With a pyramid: tokens in context, detail and click maps join them, a mask of 8G x 8G, and
    a score that has seen it."""

    def __init__(self, decoder: Any, channels: Channels, scale: float) -> None:
        """``scale``: frame pixels of a slice pixel."""
        super().__init__()
        self.channels, self.scale = channels, scale
        self.upscaling, self.click_maps = decoder.output_upscaling, decoder.click_maps
        self.hypernetwork = decoder.output_hypernetworks_mlps[0]
        self.gate_hypernetwork = decoder.gate_hypernetwork
        self.fine_hypernetwork = decoder.fine_hypernetwork
        self.context = decoder.context
        self.clicked, self.likeness = decoder.clicked, decoder.likeness
        self.fine_clicked, self.fine_likeness = decoder.fine_clicked, decoder.fine_likeness
        self.review, self.evidence = decoder.review, decoder.evidence

    def prior(self, logits: Tensor) -> Tensor:
        """See :meth:`PlainCells.prior`."""
        return F.avg_pool2d(logits, 2)

    def forward(self, packed: Tensor, clicked: Clicked) -> tuple[Tensor, Tensor | float]:
        """As :meth:`PlainCells.forward`."""
        _, detail, fine = unpack(packed, self.channels)
        places, labels = clicked.points * self.scale + 0.5, clicked.labels
        maps = detail + self.click_maps(places, labels).to(packed.dtype)
        where = self.clicked(places, labels).to(packed.dtype)
        maps = maps + self.likeness(detail, where)
        fine_where = self.fine_clicked(places, labels).to(packed.dtype)
        fine = fine + self.fine_likeness(fine, fine_where)
        cells = joined(self.upscaling, self.context(clicked.source, clicked.position), maps)
        heads = self.hypernetwork, self.gate_hypernetwork
        weights = torch.stack([head(clicked.answer) for head in heads], dim=1)
        fine_weights = self.fine_hypernetwork(clicked.answer)[:, None]
        logits = gated(_weighed(weights, cells), _weighed(fine_weights, fine))
        logits = self.review(logits, cells, fine, where, fine_where)
        return logits, self.evidence(logits, cells, where)


def _weighed(weights: Tensor, features: Tensor) -> Tensor:
    """Sums over channels: weights [B, n, C], features [B, C, H, W] -> [B, n, H, W]."""
    side = features.shape[-1]
    return (weights @ features.flatten(2)).reshape(-1, weights.shape[1], side, side)


class PromptPoints(nn.Module):
    """points [B, N, 2] (slice pixels), labels [B, N] -> sparse embeddings [B, N, E], float32.

    A slice pixel p lies at ``p * scale + 0.5`` of the model's frame. Labels other than -1 to 3 are
    given no kind at all. Sines of large angles: this stays in float32 at every precision.
    """

    kind_labels: Tensor
    """Buffer [5]: the label of each row of ``kinds``."""

    def __init__(self, prompt_encoder: Any, image_size: int, slice_size: int) -> None:
        super().__init__()
        self.image_size, self.scale = image_size, image_size / slice_size
        self.frequencies = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        kinds = [prompt_encoder.not_a_point_embed, *prompt_encoder.point_embeddings]
        self.kinds = nn.Parameter(torch.cat([kind.weight.detach() for kind in kinds]))  # [5, E]
        self.register_buffer("kind_labels", torch.arange(-1, 4, dtype=torch.int32))

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        coords = 2 * ((points * self.scale + 0.5) / self.image_size) - 1
        angles = 2 * torch.pi * (coords @ self.frequencies)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        encoded = torch.where(labels[..., None] == -1, 0.0, encoded)
        kind = torch.eq(labels[..., None], self.kind_labels)  # [B, N, 5]
        out: Tensor = encoded + kind.float() @ self.kinds
        return out


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


def _halves(both: Tensor) -> tuple[Tensor, ...]:
    """[2B, ...] -> the first and the last B."""
    return both.reshape(2, -1, *both.shape[1:]).unbind()


def _resized(image: Tensor, side: int) -> Tensor:
    """[B, 1, h, h] -> [B, 1, side, side]: bilinear, half-pixel centres; nothing where equal."""
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
