"""What a test on a GPU needs beyond the GPU."""

from __future__ import annotations

import pytest

from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.environment import installed, unserved_gpu


def skip_where_no_tensorrt_builds() -> None:
    """Skip, saying why, on a GPU that the TensorRT flavour installed builds no engine for.

    Without any GPU nothing is skipped: the test then fails, as it should.
    """
    for gpu in probe_gpus().devices[:1]:
        unserved = unserved_gpu(installed(), gpu.compute_capability)
        if unserved is not None:
            pytest.skip(f"{gpu.name}: {unserved.problem}; {unserved.mend}")
