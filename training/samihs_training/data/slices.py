"""A batch of prompted slices, and how a phantom slice is varied before it goes into one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from samihs_runtime.encoding.slice_frame import AIR_HU
from samihs_training.data.phantom import BleedType, PhantomSlice, Tissue, wear_8bit

TURN_DEG = 15.0
ZOOM = 0.7, 1.25  # times: fields of view are widened more often than narrowed
SHIFT = 0.04  # of the slice's size


@dataclass(frozen=True)
class Batch:
    """B slices, P prompts on each: prompt i belongs to slice i // P."""

    hu: Tensor
    """float32 [B, 1, S, S]."""
    window: Tensor
    """float32 [B, 2]: low and high HU."""
    points: Tensor
    """float32 [B * P, N, 2], column first, as the decoder takes them: the last is SAM's pad, or
    the last two are a box's corners."""
    labels: Tensor
    """int64 [B * P, N]: 1 foreground, 0 background, 2 and 3 box corners, -1 not a point."""
    masks: Tensor
    """uint8 [B * P, 1, S, S]."""
    bleeds: Tensor
    """uint8 [B, 1, S, S]: all blood of each slice."""
    origins: Tensor | None = None
    """int64 [B, 2]: row and column, in the model's grid, of the first token of each crop
    (``crops.py``); None for whole slices."""

    def to(self, device: torch.device) -> Batch:
        """On that device."""
        held: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        there = {name: each.to(device) for name, each in held.items() if each is not None}
        return Batch(**there)


def flipped(sample: PhantomSlice, rng: np.random.Generator) -> PhantomSlice:
    """Mirrored left to right half of the time, upside down in one of ten (prone patients)."""
    arrays = [np.asarray(each) for each in (sample.hu, sample.bleeds, sample.tissues)]
    if rng.random() < 0.5:
        arrays = [each[:, ::-1] for each in arrays]
    if rng.random() < 0.1:
        arrays = [each[::-1] for each in arrays]
    hu, bleeds, tissues = (np.ascontiguousarray(each) for each in arrays)
    return PhantomSlice(hu, bleeds, tissues, sample.pixel_spacing)


def moved(sample: PhantomSlice, rng: np.random.Generator) -> PhantomSlice:
    """Turned, zoomed and shifted half of the time: fields of view differ from scan to scan."""
    if rng.random() < 0.5:
        return sample
    turn = np.deg2rad(rng.uniform(-TURN_DEG, TURN_DEG))
    zoom = float(np.exp(rng.uniform(*np.log(ZOOM))))
    cosine, sine = np.cos(turn) / zoom, np.sin(turn) / zoom
    back = np.array([[cosine, -sine], [sine, cosine]])  # from the new slice's pixels to the old
    size = sample.hu.shape[0]
    middle = (size - 1) / 2
    offset = middle - back @ (middle + rng.uniform(-SHIFT, SHIFT, 2) * size)
    place: Any = partial(ndimage.affine_transform, matrix=back, offset=offset)
    return PhantomSlice(
        place(np.asarray(sample.hu), order=1, cval=AIR_HU),
        place(np.asarray(sample.bleeds), order=0, cval=BleedType.NONE),
        place(np.asarray(sample.tissues), order=0, cval=Tissue.AIR),
        sample.pixel_spacing / zoom,
    )


def cut(sample: PhantomSlice, part: tuple[slice, slice]) -> PhantomSlice:
    """Those rows and columns."""
    arrays = (np.asarray(each) for each in (sample.hu, sample.bleeds, sample.tissues))
    hu, bleeds, tissues = (np.ascontiguousarray(each[part]) for each in arrays)
    return PhantomSlice(hu, bleeds, tissues, sample.pixel_spacing)


def worn(hu: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.float32]:
    """HU as other scanners and archives give them: these differ by a few HU and in sharpness, and
    some archives hold only 8-bit JPEG windows."""
    image = hu.astype(np.float32)
    image = image * np.float32(rng.normal(1.0, 0.03)) + np.float32(rng.normal(0.0, 3.0))
    if rng.random() < 0.25:  # softer kernels, and pictures enlarged from smaller ones
        image = ndimage.gaussian_filter(image, rng.uniform(0.4, 2.0), truncate=3.0)
    draw = rng.random()
    if draw < 0.25:
        image = np.asarray(wear_8bit(image, rng), np.float32)
        return image if draw < 0.15 else misread(image, rng)
    if draw < 0.4:
        image += rng.normal(0, rng.uniform(1, 4), image.shape).astype(np.float32)
    return image


def misread(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """HU of a picture whose window was guessed: few archives tell which one they used."""
    gain, offset = np.exp(rng.normal(0.0, 0.12)), rng.normal(0.0, 6.0)
    return np.asarray((image - 40.0) * gain + 40.0 + offset, np.float32)
