"""Put another site's weights into a TensorRT engine that was built for that (REFIT_INDIVIDUAL)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from samihs_runtime.backends.exchange import Tensors
from samihs_runtime.bundle.tensor_file import SIZES
from samihs_runtime.errors import BackendError

_TYPES = {"F32": "FLOAT", "F16": "HALF", "BF16": "BF16"}
"""TensorRT's name of each safetensors type."""


def refit(trt: Any, engine: Any, tensors: Tensors, path: Path) -> None:
    """Replace all refittable weights of a deserialised engine.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        engine: deserialised.
        tensors: by name; exactly those whose exchange the engine was built for.
        path: its file, for messages.

    Raises:
        BackendError: the engine was not built for this, has other names, or TensorRT refuses.
    """
    again = f"build the engines again: samihs-export engines {path.parent.parent} --refittable"
    if not engine.refittable:
        raise BackendError(f"{path} was built without refittable weights: {again}")
    refitter = trt.Refitter(engine, trt.Logger(trt.Logger.ERROR))
    names = set(refitter.get_all_weights())
    if names != tensors.keys():
        odd = ", ".join(sorted(names ^ tensors.keys())[:3])
        raise BackendError(f"{path} exchanges other weights than the adapters ({odd}): {again}")
    # TensorRT reads this host memory until the refit has ended, so it must live that long.
    held = {name: np.frombuffer(each.data, np.uint8) for name, each in tensors.items()}
    for name, tensor in tensors.items():
        count = len(tensor.data) // SIZES[tensor.dtype]
        kind = getattr(trt.DataType, _TYPES[tensor.dtype])
        if not refitter.set_named_weights(name, trt.Weights(kind, held[name].ctypes.data, count)):
            raise BackendError(f"TensorRT takes no other weights for {name} of {path}: {again}")
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        raise BackendError(f"TensorRT could not refit {path}: {again}")
