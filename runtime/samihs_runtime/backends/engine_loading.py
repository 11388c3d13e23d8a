"""Load a TensorRT engine from its file, and say why if that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from samihs_runtime.backends.cuda import Device
from samihs_runtime.backends.sidecar import VERSION_COMPATIBLE, EngineSidecar
from samihs_runtime.errors import BackendError, DeviceMemoryError


def deserialise(trt: Any, device: Device, path: Path, sidecar: EngineSidecar) -> tuple[Any, Any]:
    """The runtime, which must live as long as the engine, and the engine.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        device: where it will run.
        path: the engine's file.
        sidecar: its sidecar, which has been checked.

    Raises:
        BackendError: the file cannot be read, or TensorRT refuses it; DeviceMemoryError if the
            GPU has less memory free than the engine is large.
    """
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if VERSION_COMPATIBLE in sidecar.flags and runtime is not None:
        runtime.engine_host_code_allowed = True  # it contains the runtime that it was built for
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BackendError(f"cannot read the engine {path}: {error.strerror or error}") from error
    engine = runtime.deserialize_cuda_engine(content) if runtime is not None else None
    if engine is None:
        raise _not_loaded(path, len(content), device.free_bytes())
    return runtime, engine


def _not_loaded(path: Path, size: int, free: int) -> BackendError:
    """TensorRT gives no reason. An engine is mostly weights, which go to the GPU as they are."""
    if free < size:
        return DeviceMemoryError(
            f"the GPU's memory is full: the engine {path} has {_mib(size)}, {_mib(free)} are free; "
            "close other programs that use the GPU"
        )
    return BackendError(
        f"TensorRT could not load {path}, though {_mib(free)} of the GPU's memory are free: build "
        "the engines again on this machine"
    )


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.0f} MiB"


def tensors_of(trt: Any, engine: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Names and numpy dtype names of the engine's inputs and outputs."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side[name] = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
    return inputs, outputs
