"""The mask decoder in its exported form: the tensor contract around segment-anything's layers.

The contract (names, shapes, types) is defined in ``samihs_runtime.bundle.manifest``.
Post-processing is part of the graph, so that every backend gives the same answer. The changes
to segment-anything's own forward are exact, such as ``where`` for masked assignment, or attention
that projects no image token (``two_way``). The tests compare it with
:class:`samihs_training.network.model.SamihsModel`.

Inputs and outputs stay float32 at every precision; ``precision.to_precision`` sets the types in
between.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_export.graphs.cells import TokenUpscaling, in_rows
from samihs_export.graphs.graph_steps import halves, resized
from samihs_export.graphs.named_layers import name_weights
from samihs_export.graphs.two_way import make_attention_exportable
from samihs_export.graphs.upscaling import UpscalingForm, set_upscaling
from samihs_training.network.mask_head import gated
from samihs_training.network.mirror import mirrored_points
from samihs_training.network.model import SamihsModel
from samihs_training.network.pyramid import Channels, unpack, upscaled_with_detail


class DecoderGraph(nn.Module):
    """Prompt i on embedding i; names and shapes as in the contract.

    If the mirrored slice is answered as well, both run as one batch of 2B.
    """

    position: Tensor
    """Buffer [1, E, G, G]: the position of each token of the embedding."""

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
        mask = resized(logits, self.slice_size)[:, 0] > 0
        return logits, mask.to(torch.uint8), score

    def _averaged(
        self, embedding: Tensor, points: Tensor, labels: Tensor, prior: Tensor, has_prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean of the answers to the slice and to its mirror image, the latter flipped back."""
        there = mirrored_points(points, labels, self.slice_size)
        logits, score = self._answered(
            torch.cat(embedding.chunk(2, dim=1)),
            torch.cat([points, there]),
            torch.cat([labels, labels]),
            torch.cat([prior, prior.flip(-1)]),
            torch.cat([has_prior, has_prior]),
        )
        (ours, theirs), scores = halves(logits), halves(score)
        return (ours + theirs.flip(-1)) / 2, (scores[0] + scores[1]) / 2

    def _answered(
        self, embedding: Tensor, points: Tensor, labels: Tensor, prior: Tensor, has_prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = self.tokens.dtype
        packed = embedding.to(dtype)
        source = packed[:, : self.position.shape[1]]
        sparse = self.points(points, labels).to(dtype)  # [B, N, E]
        prior = self.mask_downscaling(self.cells.prior(prior).to(dtype))
        dense = torch.where(has_prior.view(-1, 1, 1, 1) > 0.5, prior, self.no_mask)
        tokens = torch.cat([self.tokens.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        answers, mixed = self.transformer(source + dense, self.position, tokens)
        decoded = DecodedTokens(mixed, self.position, answers[:, 1], points, labels)
        logits, evidence = self.cells(packed, decoded)
        return logits, self.score_head(answers[:, 0])[:, 0].float() + evidence


class DecodedTokens(NamedTuple):
    """The transformer's output for the embedding and the prompts, and the prompts themselves."""

    tokens: Tensor
    """[B, G G, E]: those of the image."""
    position: Tensor
    """[1, E, G, G]."""
    answer: Tensor
    """[B, E]: output of the mask token."""
    points: Tensor
    """[B, N, 2], slice pixels."""
    labels: Tensor
    """[B, N]."""

    @property
    def source(self) -> Tensor:
        """The image tokens in rows and columns: [B, E, G, G]."""
        return self.tokens.mT.reshape(-1, *self.position.shape[1:])


class PlainCells(nn.Module):
    """The mask of SAM's own decoder: logits [B, 1, 4G, 4G]."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.upscaling = TokenUpscaling(decoder.output_upscaling)
        self.hypernetwork = decoder.output_hypernetworks_mlps[0]

    def prior(self, logits: Tensor) -> Tensor:
        """A prior mask at the size expected by SAM's prompt encoder."""
        return logits

    def forward(self, packed: Tensor, decoded: DecodedTokens) -> tuple[Tensor, Tensor | float]:
        """Float32 logits, and a term to add to the score. ``packed`` [B, E', G, G]: the encoder's
        embedding."""
        weights = self.hypernetwork(decoded.answer)
        cells = self.upscaling(decoded.tokens) @ weights[..., None]  # [B, 16 G G, 1]
        return in_rows(cells, decoded.position.shape[-1]).float(), 0.0


class FineCells(nn.Module):
    """The cells of a model with a pyramid: tokens in context, joined by detail and click maps; a
    mask of 8G x 8G, and a score that takes it into account."""

    def __init__(self, decoder: Any, channels: Channels, scale: float) -> None:
        """``scale``: frame pixels per slice pixel."""
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
        self.mask_threshold = decoder.mask_threshold

    def prior(self, logits: Tensor) -> Tensor:
        """See :meth:`PlainCells.prior`."""
        return F.avg_pool2d(self.mask_threshold.undone(logits), 2)

    def forward(self, packed: Tensor, decoded: DecodedTokens) -> tuple[Tensor, Tensor | float]:
        """As :meth:`PlainCells.forward`."""
        _, detail, fine = unpack(packed, self.channels)
        places, labels = decoded.points * self.scale + 0.5, decoded.labels
        maps = detail + self.click_maps(places, labels).to(packed.dtype)
        where = self.clicked(places, labels).to(packed.dtype)
        maps = maps + self.likeness(detail, where)
        fine_where = self.fine_clicked(places, labels).to(packed.dtype)
        likened = fine + self.fine_likeness(fine, fine_where)
        cells = upscaled_with_detail(
            self.upscaling, self.context(decoded.source, decoded.position), maps
        )
        heads = self.hypernetwork, self.gate_hypernetwork
        weights = torch.stack([head(decoded.answer) for head in heads], dim=1)
        fine_weights = self.fine_hypernetwork(decoded.answer)[:, None]
        logits = gated(_weighed(weights, cells), _weighed(fine_weights, likened))
        logits = self.review(logits, cells, likened, where, fine_where)
        worth = self.evidence(logits, cells, detail, fine, where)
        return self.mask_threshold(logits), worth


def _weighed(weights: Tensor, features: Tensor) -> Tensor:
    """Sums over channels: weights [B, n, C], features [B, C, H, W] -> [B, n, H, W]."""
    side = features.shape[-1]
    return (weights @ features.flatten(2)).reshape(-1, weights.shape[1], side, side)


class PromptPoints(nn.Module):
    """points [B, N, 2] (slice pixels), labels [B, N] -> sparse embeddings [B, N, E], float32.

    A slice pixel p lies at ``p * scale + 0.5`` in the model's frame. Labels other than -1 to 3 get
    no kind embedding. Because of sines of large angles, this stays float32 at every precision.
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
