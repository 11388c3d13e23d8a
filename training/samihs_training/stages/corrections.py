"""Corrective clicks: they tell where an answer is wrong and what is really there, nothing more.

A correction is a click on a pixel where answer and truth differ: foreground where the answer missed
blood, background where it spilled over. The previous answer is the prior of the next. Training and
evaluation differ in which wrong pixel is clicked: any one, as in segment-anything's training, or
the deepest one of the largest missed or spilled region, as interactive methods are tested.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from samihs_runtime.segmentation import BACKGROUND, BOX_MIN, FOREGROUND, Prompt
from samihs_training.data.clicks import Mask, deepest_click


@dataclass(frozen=True, eq=False)
class Corrections:
    """One click for each of B answers."""

    cells: Tensor
    """float32 [B, 2]: column and row of a pixel of the maps."""
    labels: Tensor
    """int64 [B]: what the truth is there."""
    needed: Tensor
    """bool [B]: whether anything is wrong. If nothing is, the click confirms the answer: on the
    mask or, if that is empty, anywhere."""


def corrections(answer: Tensor, truth: Tensor) -> Corrections:
    """A click on any wrong pixel of each answer; ``answer`` and ``truth`` are bool [B, H, W]."""
    wrong = answer != truth
    needed = wrong.flatten(1).any(1)
    confirming = truth | ~truth.flatten(1).any(1)[:, None, None]
    index = _any_pixel(torch.where(needed[:, None, None], wrong, confirming))
    width = truth.shape[-1]
    cells = torch.stack([index % width, index // width], dim=1).float()
    there = truth.flatten(1).gather(1, index[:, None])[:, 0]
    return Corrections(cells, torch.where(there, FOREGROUND, BACKGROUND), needed)


def _any_pixel(candidates: Tensor) -> Tensor:
    """Index [B] of one random candidate in each flattened map; ``candidates`` is bool [B, H, W].

    Drawn with torch's generator, without a loop over the batch.
    """
    return torch.multinomial(candidates.flatten(1).float(), 1)[:, 0]


def corrected(
    points: Tensor, labels: Tensor, logits: Tensor, target: Tensor, slice_size: int
) -> tuple[Tensor, Tensor]:
    """A training batch's prompts with one more click each: [B, N + 1, 2] and [B, N + 1].

    ``points`` [B, N, 2] and ``labels`` [B, N] as the decoder takes them, in pixels of the slice;
    ``logits`` and ``target`` [B, 1, M, M] of the answer, whose cells cover the slice. An answer to
    clicks that is right gets its first click again, as background if the target is empty. The new
    click is inserted before the last entry, which is SAM's pad or a box corner.
    """
    truth = target[:, 0] > 0.5
    found = corrections(logits[:, 0] > 0, truth)
    click = (found.cells + 0.5) * (slice_size / target.shape[-1]) - 0.5
    again = ~found.needed & (labels[:, 0] != BOX_MIN)
    click = torch.where(again[:, None], points[:, 0], click)
    of_mask = torch.where(truth.flatten(1).any(1), FOREGROUND, BACKGROUND)
    label = torch.where(again, of_mask, found.labels).to(labels.dtype)
    return (
        torch.cat([points[:, :-1], click[:, None], points[:, -1:]], 1),
        torch.cat([labels[:, :-1], label[:, None], labels[:, -1:]], 1),
    )


def next_click(prompt: Prompt, answer: Mask, truth: Mask) -> Prompt:
    """The prompt with a click on the deepest pixel of the answer's largest error.

    An error is a 4-connected region that was missed, or one that was spilled: touching regions of
    the two kinds count separately, as they ask for clicks with different labels. If the largest of
    each kind are equal, the missed one is taken. Without an error, the prompt stays as it is. Masks
    are [rows, columns] of the slice.
    """
    missed, spilled = _largest_region(truth & ~answer), _largest_region(answer & ~truth)
    region, label = missed, FOREGROUND
    if spilled.sum() > missed.sum():
        region, label = spilled, BACKGROUND
    if not region.any():
        return prompt
    click = deepest_click(region)
    return replace(prompt, points=(*prompt.points, click), labels=(*prompt.labels, label))


def _largest_region(wrong: Mask) -> Mask:
    """The largest 4-connected region of a mask; empty if the mask is."""
    labels, count = ndimage.label(wrong)
    if not count:
        return np.zeros_like(wrong)
    sizes = np.bincount(labels.ravel())[1:]
    return np.asarray(labels == 1 + sizes.argmax())
