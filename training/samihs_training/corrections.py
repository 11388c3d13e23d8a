"""Corrective clicks: where an answer is wrong, what is really there, and nothing more.

A correction is a click on a pixel where answer and truth differ, foreground where the answer missed
and background where it spilled; the answer before is the prior of the next. Training and evaluation
differ in which wrong pixel it is: any, as segment-anything trains, or the deepest one of the
largest error, as interactive methods are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from samihs_runtime.segmentation import BACKGROUND, BOX_MIN, FOREGROUND, Prompt
from samihs_training.data.clicks import Mask, deepest_click

Pick = Callable[[Tensor], Tensor]
"""Candidates, bool [B, H, W], at least one each -> index [B] of one in each flattened map."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """One click for each of B answers."""

    cells: Tensor
    """float32 [B, 2]: column and row of a pixel of the maps."""
    labels: Tensor
    """int64 [B]: what the truth is there."""
    needed: Tensor
    """bool [B]: whether anything is wrong. Where nothing is, the click confirms: on the mask, or,
    where that is empty, anywhere."""


def corrections(answer: Tensor, truth: Tensor, pick: Pick) -> Corrections:
    """A click for each answer; ``answer`` and ``truth`` are bool [B, H, W]."""
    wrong = answer != truth
    needed = wrong.flatten(1).any(1)
    confirming = truth | ~truth.flatten(1).any(1)[:, None, None]
    index = pick(torch.where(needed[:, None, None], wrong, confirming))
    width = truth.shape[-1]
    cells = torch.stack([index % width, index // width], dim=1).float()
    there = truth.flatten(1).gather(1, index[:, None])[:, 0]
    return Corrections(cells, torch.where(there, FOREGROUND, BACKGROUND), needed)


def any_pixel(candidates: Tensor) -> Tensor:
    """A random one, by torch's generator; no loop over the batch."""
    return torch.multinomial(candidates.flatten(1).float(), 1)[:, 0]


def deepest_pixel(candidates: Tensor) -> Tensor:
    """The deepest of the largest 4-connected region; scipy, one map after the other."""
    clicks = [deepest_click(_largest_region(each)) for each in candidates.cpu().numpy()]
    width = candidates.shape[-1]
    index = [int(row) * width + int(column) for column, row in clicks]
    return torch.tensor(index, device=candidates.device)


def corrected(
    points: Tensor, labels: Tensor, logits: Tensor, target: Tensor, slice_size: int
) -> tuple[Tensor, Tensor]:
    """A training batch's prompts with one more click each: [B, N + 1, 2] and [B, N + 1].

    ``points`` [B, N, 2] and ``labels`` [B, N] as the decoder takes them, in pixels of the slice;
    ``logits`` and ``target`` [B, 1, M, M] of the answer, whose cells are the slice's in small. An
    answer of clicks that is right gets its first click again, as background where the target is
    empty. The new click stands before the last entry, which is SAM's pad or a box corner.
    """
    truth = target[:, 0] > 0.5
    found = corrections(logits[:, 0] > 0, truth, any_pixel)
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
    """The prompt with a click in the largest error of the answer; the same if there is none.

    Masks are [rows, columns] of the slice.
    """
    given, wanted = (torch.from_numpy(np.ascontiguousarray(each)) for each in (answer, truth))
    found = corrections(given[None], wanted[None], deepest_pixel)
    if not found.needed.item():
        return prompt
    x, y = found.cells[0].tolist()
    label = int(found.labels.item())
    return replace(prompt, points=(*prompt.points, (x, y)), labels=(*prompt.labels, label))


def _largest_region(candidates: Mask) -> Mask:
    labels, _ = ndimage.label(candidates)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
