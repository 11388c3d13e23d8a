"""SAM as it is trained and exported here: Hounsfield units and points in, mask logits out.

segment-anything's decoder takes one image's embedding and repeats it for each prompt; a training
batch and a batched export pair embedding i with prompt i. :class:`SamihsModel` does that with
segment-anything's own submodules. The same pre- and post-processing stands in the exported graphs
(``encoder_graph``, ``decoder_graph`` of ``samihs_export``), which are tested against this class.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.network.mask_head import gated
from samihs_training.network.mirror import mirrored_points
from samihs_training.network.pyramid import encoded, unpack, upscaled_with_detail
from samihs_training.network.sam import SamConfig


class ScoreInput(NamedTuple):
    """What the score of an answer is computed from."""

    token: Tensor
    """[B, E]: SAM's token of the predicted IoU, after the decoder's transformer."""
    evidence: Tensor
    """[B, R]: of the mask (:class:`~samihs_training.network.mask_head.Evidence`); R is 0 without a
    pyramid."""


class SamihsModel(nn.Module):
    """A SAM with everything between Hounsfield units and low-resolution logits."""

    def __init__(self, sam: nn.Module, config: SamConfig) -> None:
        super().__init__()
        self.sam: Any = sam
        self.config = config

    def mirrored(self) -> SamihsModel:
        """The same weights, applied to each slice's mirror image as well (``mirror.py``)."""
        return SamihsModel(self.sam, dataclasses.replace(self.config, mirrored=True))

    def encode(self, hu: Tensor, window: Tensor) -> Tensor:
        """``hu`` [B, 1, S, S] float, ``window`` [B, 2] (low, high HU) -> embedding [B, E', G, G].

        The window is scaled to [0, 1] and clipped, then resized to the model's frame (bilinear,
        half-pixel centres), then repeated to three channels and normalised. E' is SAM's E plus the
        packed detail if the configuration has a pyramid (``pyramid.py``), and twice that if it is
        mirrored.
        """
        embedding = self._encode(hu, window)
        if not self.config.mirrored:
            return embedding
        return torch.cat([embedding, self._encode(hu.flip(-1), window)], dim=1)

    def _encode(self, hu: Tensor, window: Tensor) -> Tensor:
        low, high = window[:, 0].view(-1, 1, 1, 1), window[:, 1].view(-1, 1, 1, 1)
        image = ((hu - low) / (high - low)).clamp(0, 1)
        size = self.config.image_size
        if image.shape[-1] != size:
            image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
        mean = image.new_tensor(self.config.pixel_mean).view(1, 3, 1, 1)
        std = image.new_tensor(self.config.pixel_std).view(1, 3, 1, 1)
        image = (image.expand(-1, 3, -1, -1) - mean) / std
        encoder = self.sam.image_encoder
        embedding: Tensor = encoded(encoder, image) if self.config.pyramid_width else encoder(image)
        return embedding

    def decode(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        prior: Tensor | None = None,
        *,
        slice_size: int,
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, 1, M, M] and scores [B]; M is the configuration's mask size.

        ``embedding`` [S, E', G, G] as :meth:`encode` gives it, of S slices, each for the next
        B / S of the prompts; ``points`` [B, N, 2] in pixels of the ``slice_size`` slice, column
        first; ``labels`` [B, N] (1 foreground, 0 background, 2/3 box corners, -1 not a point:
        exactly one where there is no box); ``prior`` [B, 1, M, M] logits.
        """
        if not self.config.mirrored:
            logits, known = self.answer(embedding, points, labels, prior, slice_size=slice_size)
            return logits, self.score(known)
        embedding, behind = embedding.chunk(2, dim=1)
        logits, known = self.answer(embedding, points, labels, prior, slice_size=slice_size)
        points = mirrored_points(points, labels, slice_size)
        prior = None if prior is None else prior.flip(-1)
        other, other_known = self.answer(behind, points, labels, prior, slice_size=slice_size)
        score = (self.score(known) + self.score(other_known)) / 2
        return (logits + other.flip(-1)) / 2, score

    def answer(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        prior: Tensor | None = None,
        *,
        slice_size: int,
    ) -> tuple[Tensor, ScoreInput]:
        """As :meth:`decode`, but not mirrored, and with the inputs of the score in its place."""
        decoder = self.sam.mask_decoder
        prompts = len(points) // len(embedding)
        source = embedding[:, : self.config.prompt_width].repeat_interleave(prompts, 0)
        sparse = self.embed_points(points, labels, slice_size)
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # [B, 5+N, E]
        position = self.grid_position(prompts)
        answers, mixed = decoder.transformer(
            source + self._dense(prior), position.expand_as(source), tokens
        )
        source = mixed.mT.reshape(source.shape)
        # One mask for one click: the first token is SAM's single-mask output.
        answer = answers[:, 1]
        weights = decoder.output_hypernetworks_mlps[0](answer)  # [B, D]
        if not self.config.pyramid_width:
            nothing = answer.new_zeros(len(answer), 0)
            logits = weighted_sum(weights, decoder.output_upscaling(source))
            return logits, ScoreInput(answers[:, 0], nothing)
        _, detail, fine = unpack(embedding, self.config.channels)
        detail, fine = (each.repeat_interleave(prompts, 0) for each in (detail, fine))
        places = self.in_frame(points, slice_size)
        where = decoder.clicked(places, labels).to(detail.dtype)
        maps = detail + decoder.click_maps(places, labels) + decoder.likeness(detail, where)
        cells = upscaled_with_detail(
            decoder.output_upscaling, decoder.context(source, position), maps
        )
        weights = torch.stack([weights, decoder.gate_hypernetwork(answer)], dim=1)
        coarse = (weights @ cells.flatten(2)).view(-1, 2, *cells.shape[2:])  # [B, 2, 4G, 4G]
        fine_where = decoder.fine_clicked(places, labels).to(fine.dtype)
        likened = fine + decoder.fine_likeness(fine, fine_where)
        logits = gated(coarse, weighted_sum(decoder.fine_hypernetwork(answer), likened))
        # Expanded squares of differences cancel: half precision has too few digits for that.
        with torch.autocast(logits.device.type, enabled=False):
            logits = decoder.review(logits, cells, likened, where, fine_where)
            evidence = decoder.evidence.means(logits, cells, detail, fine, where)
            logits = decoder.mask_threshold(logits)
        return logits, ScoreInput(answers[:, 0], evidence)

    def score(self, known: ScoreInput) -> Tensor:
        """The predicted IoU [B] of an answer, from what :meth:`answer` gives."""
        decoder = self.sam.mask_decoder
        score: Tensor = decoder.iou_prediction_head(known.token)[:, 0]
        if not self.config.pyramid_width:
            return score
        with torch.autocast(score.device.type, enabled=False):
            worth: Tensor = decoder.evidence.worth(known.evidence)
            return score.float() + worth

    def grid_position(self, prompts: int) -> Tensor:
        """SAM's encoding of where the tokens lie in the frame: [1, E, G, G], the same for all
        prompts; or one for each of the ``prompts`` on each of B slices, [B prompts, E, G, G]."""
        position: Tensor = self.sam.prompt_encoder.get_dense_pe()
        return position

    def _dense(self, prior: Tensor | None) -> Tensor:
        """SAM's dense prompt [B or 1, E, G or 1, G or 1] of a prior mask, or of none."""
        prompt_encoder = self.sam.prompt_encoder
        if prior is None:
            nothing: Tensor = prompt_encoder.no_mask_embed.weight
            return nothing.view(1, -1, 1, 1)
        if self.config.pyramid_width:
            prior = self.sam.mask_decoder.mask_threshold.undone(prior)
            prior = F.avg_pool2d(prior, 2)  # twice as fine as SAM's masks
        dense: Tensor = prompt_encoder.mask_downscaling(prior)
        return dense

    def in_frame(self, points: Tensor, slice_size: int) -> Tensor:
        """Slice pixels -> pixels of the model's frame: p lies at ``p * scale + 0.5`` (centres)."""
        return points * (self.config.image_size / slice_size) + 0.5

    def embed_points(self, points: Tensor, labels: Tensor, slice_size: int) -> Tensor:
        """Sparse prompt embeddings [B, N, E]: segment-anything's, without masked assignment."""
        prompt_encoder = self.sam.prompt_encoder
        size = (self.config.image_size, self.config.image_size)
        coords = self.in_frame(points, slice_size)
        encoded: Tensor = prompt_encoder.pe_layer.forward_with_coords(coords, size)
        kind = labels[..., None]
        encoded = torch.where(kind == -1, torch.zeros_like(encoded), encoded)
        encoded = encoded + (kind == -1) * prompt_encoder.not_a_point_embed.weight
        for label, embedding in enumerate(prompt_encoder.point_embeddings):
            encoded = encoded + (kind == label) * embedding.weight
        return encoded


def weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """Sums over channels: weights [B, C] and features [B, C, H, W] -> [B, 1, H, W]."""
    return (weights[:, None] @ features.flatten(2)).view(-1, 1, *features.shape[2:])


def logits_at_slice_size(logits: Tensor, slice_size: int) -> Tensor:
    """[B, 1, M, M] -> [B, 1, S, S], bilinearly."""
    size = (slice_size, slice_size)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def mask_at_slice_size(logits: Tensor, slice_size: int) -> Tensor:
    """Boolean mask [B, 1, S, S]: logits up-sampled bilinearly, above 0 (SAM's own rule)."""
    return logits_at_slice_size(logits, slice_size) > 0
