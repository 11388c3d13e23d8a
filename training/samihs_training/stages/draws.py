"""The random draws of a step: they depend only on the seed and the step's number, so that a run can
be resumed exactly to the bit."""

from __future__ import annotations

import numpy as np


def torch_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generator for this step in this process."""
    state = np.random.SeedSequence([seed, 2, step, rank]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def is_corrected(seed: int, step: int, share: float) -> bool:
    """Whether this step gets corrective clicks, as a ``share`` of all steps do; the same in all
    processes."""
    return float(np.random.default_rng([seed, 3, step]).random()) < share
