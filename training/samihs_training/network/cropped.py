"""A model on parts of its frame, for training: four quarters cost less than one slice.

The weights are the model's own. What depends on the place is taken for the place that a crop has in
the frame: the encoder's position embedding, the decoder's encoding of tokens and of points. What
depends on distance, the global blocks' relative positions, keeps the entries for the distances
that occur. Crops consist of whole windows of the encoder, so that windowed blocks see in a crop
what they would see in the slice (if windows do not divide the frame, the last crops are displaced).

A crop is not a slice: global blocks and the decoder attend to fewer tokens, and entries for larger
distances are not trained. Continue a model that was trained on whole slices, or end with a stage on
those.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from samihs_runtime.errors import UsageError
from samihs_training.data.crops import Crops
from samihs_training.network.click_maps import Clicked, ClickMaps
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig


def crops_of(config: SamConfig, pixels: int) -> Crops:
    """The crops of ``pixels`` of the frame a side.

    Raises:
        UsageError: a crop is not made of whole windows, or not smaller than the frame; or it has
            an odd number of tokens along a side.
    """
    window = config.patch_size * config.window
    step = 2 * window if config.window % 2 else window
    side = pixels // config.patch_size
    if pixels % step or not 0 < pixels < config.image_size:
        raise UsageError(
            f"crop = {pixels}: expected a multiple of {step} pixels, so that it consists of whole "
            f"windows of {window}, below {config.image_size}, the size of the model's frame"
        )
    last = config.grid - side
    return Crops(config.grid, side, tuple(sorted({*range(0, last + 1, config.window), last})))


class CroppedModel(SamihsModel):
    """A model with the weights of another one, for crops of its frame.

    Call :meth:`look_at` before each batch: it says where the crops lie.
    """

    def __init__(self, whole: SamihsModel, crops: Crops) -> None:
        """``whole``: on its device already; a change of its weights is one of this model's."""
        if whole.config.mirrored:
            raise UsageError("a mirrored model answers whole slices only: it can't be cropped")
        size = crops.side * whole.config.patch_size
        config = replace(whole.config, image_size=size)
        super().__init__(_sharing(whole.sam, whole.config, config), config)
        self.whole = whole
        self.crops = crops
        self.origins = torch.zeros(1, 2, dtype=torch.int64)
        self._position = torch.zeros(0)
        self._tables = _place_bound(self.sam, whole.sam, whole.config)

    def look_at(self, origins: Tensor) -> None:
        """``origins`` int64 [B, 2]: row and column of each crop's first token in the frame."""
        self.origins = origins
        self._position = self._parts(self.whole.grid_position(1))
        encoder, position = self.sam.image_encoder, self.whole.sam.image_encoder.pos_embed
        encoder.pos_embed = self._parts(position.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        cut = self.crops.grid - self.crops.side  # the largest distances, which do not occur
        for ours, theirs in self._tables:
            ours.rel_pos_h = theirs.rel_pos_h[cut : len(theirs.rel_pos_h) - cut]
            ours.rel_pos_w = theirs.rel_pos_w[cut : len(theirs.rel_pos_w) - cut]

    def embed_points(self, points: Tensor, labels: Tensor, slice_size: int) -> Tensor:
        """As of the whole frame; ``points`` [B, N, 2] in pixels of the crop of a slice,
        ``slice_size``: of the crop."""
        pixels = slice_size / self.crops.side  # of a token
        first = self.origins.flip(1).repeat_interleave(len(points) // len(self.origins), 0)
        moved = points + first[:, None] * pixels
        return self.whole.embed_points(moved, labels, round(self.crops.grid * pixels))

    def grid_position(self, prompts: int) -> Tensor:
        """SAM's encoding of where each crop's tokens lie, for ``prompts`` of each: [B, E, g, g]."""
        return self._position.repeat_interleave(prompts, 0)

    def _parts(self, grid: Tensor) -> Tensor:
        """[1, C, G, G] -> the crops' parts of it, [B, C, g, g]."""
        side = self.crops.side
        rows = [grid[0, :, r : r + side, c : c + side] for r, c in self.origins.tolist()]
        return torch.stack(rows)


def _sharing(sam: nn.Module, old: SamConfig, new: SamConfig) -> Any:
    """A copy of ``sam`` in the frame of ``new``; parameters and buffers are the same tensors."""
    tensors = [*sam.parameters(), *sam.buffers()]
    ours: Any = copy.deepcopy(sam, {id(each): each for each in tensors})
    for module in ours.modules():
        if isinstance(module, ClickMaps | Clicked):  # cells are of the same size in any frame
            module.centres = module.centres[: len(module.centres) * new.grid // old.grid]
    return ours


def _place_bound(ours: Any, theirs: Any, config: SamConfig) -> list[tuple[Any, Any]]:
    """Make plain attributes of the parameters that depend on the frame; returns each global
    block's attention in both models."""
    del ours.image_encoder.pos_embed
    pairs = [
        pair
        for number in config.global_blocks
        for pair in zip(
            ours.image_encoder.blocks[number].modules(),
            theirs.image_encoder.blocks[number].modules(),
            strict=True,
        )
        if hasattr(pair[0], "rel_pos_h")
    ]
    for attention, _ in pairs:
        del attention.rel_pos_h, attention.rel_pos_w
    return pairs
