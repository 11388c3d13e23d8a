"""A larger model of a family, initialised with a smaller one's weights.

What fits is taken as it is. A window's relative positions serve a block that now sees the whole
grid. The rest keeps the smaller model's function (Net2Net, arXiv 1511.05641). In a pyramid with
more channels, the old channels do not depend on the new ones yet, which start as fresh ones do
(zeros in place of halved copies: no symmetry has to be broken). There is no normalisation between
its convolutions, which would mix the two. In a deeper encoder, the new blocks add nothing yet, as
the last matrices of their attention and of their MLP start at zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.network.pyramid import Pyramid

ADDED_LATER = ("mask_decoder.evidence.slice_hidden.weight", "mask_decoder.mask_threshold.logit")
"""Weights that older checkpoints lack. As zeros they have no effect: a model answers as before."""
_ADDS = ("attn.proj", "mlp.lin2")
"""What a block of SAM's encoder adds to the tokens comes out of these two."""


def grown(state: Mapping[str, Tensor], sam: nn.Module) -> dict[str, Tensor]:
    """The part of the ``state`` of a model that may be smaller with which ``sam`` can start.

    New entries of a tensor that grew are those that ``sam`` has now.
    """
    convolutions = _convolutions_of_pyramids(sam)
    fitting = {}
    for name, ours in sam.state_dict().items():
        theirs = state.get(name)
        if theirs is None:
            if ".blocks." in name and name.rpartition(".")[0].endswith(_ADDS):
                fitting[name] = torch.zeros_like(ours)
            continue
        if ".rel_pos_" in name and len(theirs) < len(ours):
            theirs = _table_extended(theirs, len(ours))
        owner = convolutions.get(name.rpartition(".")[0])
        if owner is not None and _has_room(ours, theirs):
            theirs = _widened(ours, theirs, isinstance(owner, nn.ConvTranspose2d))
        if theirs.shape == ours.shape:
            fitting[name] = theirs
    return fitting


def completed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's ``state`` with zeros for what was :data:`ADDED_LATER` and is ``wanted``."""
    lacking = [name for name in ADDED_LATER if name in wanted and name not in state]
    return {**state, **{name: torch.zeros_like(wanted[name]) for name in lacking}}


def _convolutions_of_pyramids(sam: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{home}.{name}": each
        for home, pyramid in sam.named_modules()
        if isinstance(pyramid, Pyramid)
        for name, each in pyramid.named_modules()
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)
    }


def _has_room(ours: Tensor, theirs: Tensor) -> bool:
    """Whether ``ours`` is ``theirs`` with more channels and the same kernel."""
    return (
        ours.ndim == theirs.ndim
        and ours.shape != theirs.shape
        and ours.shape[2:] == theirs.shape[2:]
        and all(mine >= given for mine, given in zip(ours.shape, theirs.shape, strict=True))
    )


def _widened(ours: Tensor, theirs: Tensor, transposed: bool) -> Tensor:
    """Weights [O, I, h, w] or bias [O] with ``theirs`` as their first channels; of a transposed
    convolution [I, O, h, w]."""
    wide = ours.clone()
    if ours.ndim == 1:
        wide[: len(theirs)] = theirs
        return wide
    first, second = theirs.shape[:2]
    if transposed:
        wide[:, :second] = 0
    else:
        wide[:first] = 0
    wide[:first, :second] = theirs
    return wide


def _table_extended(table: Tensor, length: int) -> Tensor:
    """[L, c] -> [length, c]: offset 0 stays in the middle, the ends are repeated."""
    more = (length - len(table)) // 2
    return F.pad(table.mT[None], (more, more), mode="replicate")[0].mT
