"""What is drawn at a step: by the seed and the step's number alone, so that a run can be gone on
with to the bit."""

from __future__ import annotations

import numpy as np


def torch_seed(seed: int, step: int, rank: int) -> int:
    """For torch's generator at this step, in this process."""
    state = np.random.SeedSequence([seed, 2, step, rank]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def is_corrected(seed: int, step: int, share: float) -> bool:
    """Whether this step, one of that share of all, gets corrective clicks; the same in all
    processes."""
    return float(np.random.default_rng([seed, 3, step]).random()) < share
