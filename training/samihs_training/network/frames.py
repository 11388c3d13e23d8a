"""A base in another frame: image sizes 1024, 512, 256, ... from weights made for one size.

Two ways to a smaller image. ``reduced``: the patch stays 16 pixels, the token grid shrinks with the
image (512 pixels: 32 x 32), and what is tied to the grid is interpolated: position embeddings
bilinearly, the global blocks' relative positions linearly, as in SAMed (arXiv 2304.13785) and in
segment-anything's own ``get_rel_pos``. ``kept``: the grid stays 64 x 64 and the patch shrinks with
the image; the output of the patch embedding is then that of the old one for each patch enlarged
bilinearly. Windowed blocks see only their window and stay as they are in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from samihs_runtime.errors import UsageError
from samihs_training.network.sam import SamConfig

Grid = Literal["reduced", "kept"]


@dataclass(frozen=True)
class Frame:
    """The frame in which a base is loaded."""

    image_size: int | None = None
    """Side in pixels; None: the base's own."""
    grid: Grid = "reduced"

    def __post_init__(self) -> None:
        if self.grid not in ("reduced", "kept"):
            raise UsageError(f"token grid {self.grid!r}: expected reduced or kept")
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(f"image size {self.image_size}: expected a number of pixels")

    def of(self, config: SamConfig) -> SamConfig:
        """The configuration of a base in this frame."""
        size = self.image_size or config.image_size
        if self.grid == "reduced" or size == config.image_size:
            return replace(config, image_size=size)
        patch, rest = divmod(config.patch_size * size, config.image_size)
        if rest or not patch:
            raise UsageError(
                f"image size {size} with the token grid kept: the patch of {config.patch_size} "
                f"pixels at {config.image_size} would be {patch + rest / config.image_size:.2f}; "
                "take a size that divides it"
            )
        return replace(config, image_size=size, patch_size=patch)


def in_frame(state: Mapping[str, Tensor], old: SamConfig, new: SamConfig) -> dict[str, Tensor]:
    """A state dict of a SAM of ``old``'s sizes, for a SAM of ``new``'s image and patch size."""
    moved = dict(state)
    encoder = "image_encoder."
    if new.grid != old.grid:
        moved[f"{encoder}pos_embed"] = _grid_resized(state[f"{encoder}pos_embed"], new.grid)
        for block in old.global_blocks:
            for axis in ("h", "w"):
                name = f"{encoder}blocks.{block}.attn.rel_pos_{axis}"
                moved[name] = _table_resized(state[name], 2 * new.grid - 1)
    if new.patch_size != old.patch_size:
        name = f"{encoder}patch_embed.proj.weight"
        if name not in state or state[name].shape[-1] != old.patch_size:
            raise UsageError(
                f"{old.name} has no plain patch embedding: its token grid can't be kept"
            )
        moved[name] = _patch_resized(state[name], new.patch_size)
    return moved


def _grid_resized(positions: Tensor, grid: int) -> Tensor:
    """[1, G, G, C] -> [1, grid, grid, C]."""
    image = positions.permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(grid, grid), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _table_resized(table: Tensor, length: int) -> Tensor:
    """[L, c] -> [length, c]."""
    return F.interpolate(table.mT[None], size=length, mode="linear", align_corners=False)[0].mT


def _patch_resized(kernel: Tensor, patch: int) -> Tensor:
    """[C, 3, P, P] -> [C, 3, patch, patch] with the old one's output for the enlarged patch.

    With U the bilinear enlargement of one axis [P, patch], <K, U x U^T> = <U^T K U, x>.
    """
    eye = torch.eye(patch, dtype=torch.float64)[None]
    enlarge = F.interpolate(eye, size=kernel.shape[-1], mode="linear", align_corners=False)[0].mT
    return (enlarge.mT @ kernel.double() @ enlarge).to(kernel.dtype)
