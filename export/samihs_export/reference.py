"""torch's answers to the parity cases: the reference of every gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from samihs_export.cases import Answer, ParityCase
from samihs_training.model import SamihsModel, mask_at_slice_size


@torch.no_grad()
def answers_of_model(model: SamihsModel, cases: Sequence[ParityCase]) -> list[Answer]:
    """Ask the torch model, adapted or merged, one case at a time."""
    return [_ask(model.eval(), case) for case in cases]


def _ask(model: SamihsModel, case: ParityCase) -> Answer:
    size = case.hu.shape[0]
    hu, window = torch.from_numpy(case.hu)[None, None], torch.from_numpy(case.window)[None]
    embedding = model.encode(hu, window)
    prior = None if case.prior is None else torch.from_numpy(case.prior)[None, None]
    logits, score = model.decode(
        embedding,
        torch.from_numpy(case.points)[None],
        torch.from_numpy(case.labels)[None],
        prior,
        slice_size=size,
    )
    mask = mask_at_slice_size(logits, size)
    return Answer(logits[0, 0].numpy(), mask[0, 0].numpy(), float(score[0]), embedding[0].numpy())
