"""The device layer through cuda-python (``cuda.bindings.runtime``, CUDA 12 and 13).

The runtime API uses the device's primary context automatically, in every thread.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from samihs_runtime.backends.cuda_api import Bytes
from samihs_runtime.errors import BackendError, DeviceMemoryError

_DEFAULT_HOST_ALLOC = 0


class CudaPythonApi:
    """See :class:`samihs_runtime.backends.cuda_api.CudaApi`."""

    name = "cuda-python"
    supports_graphs = True

    def __init__(self) -> None:
        _call("start CUDA", cudart.cudaSetDevice, 0)
        _call("start CUDA", cudart.cudaFree, 0)  # creates the primary context now
        # The greatest priority has the lowest number.
        self._least, self._greatest = _call("start CUDA", cudart.cudaDeviceGetStreamPriorityRange)

    def free_bytes(self) -> int:
        free, _ = _call("measure its free memory", cudart.cudaMemGetInfo)
        return int(free)

    def allocate(self, nbytes: int) -> int:
        return int(_call(f"allocate {nbytes} bytes", cudart.cudaMalloc, nbytes))

    def free(self, address: int) -> None:
        _call("free memory", cudart.cudaFree, address)

    def allocate_pinned(self, nbytes: int) -> Bytes:
        address = int(
            _call(f"pin {nbytes} bytes", cudart.cudaHostAlloc, nbytes, _DEFAULT_HOST_ALLOC)
        )
        block = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.ctypeslib.as_array(block)

    def free_pinned(self, array: Bytes) -> None:
        _call("free pinned memory", cudart.cudaFreeHost, array.ctypes.data)

    def to_device(self, address: int, host: Bytes, stream: Any) -> None:
        self._copy(address, host.ctypes.data, host.nbytes, stream)

    def to_host(self, host: Bytes, address: int, stream: Any) -> None:
        self._copy(host.ctypes.data, address, host.nbytes, stream)

    def on_device(self, destination: int, source: int, nbytes: int, stream: Any) -> None:
        self._copy(destination, source, nbytes, stream)

    def create_stream(self, urgent: bool) -> Any:
        priority = self._greatest if urgent else self._least
        return _call(
            "make a stream",
            cudart.cudaStreamCreateWithPriority,
            cudart.cudaStreamNonBlocking,
            priority,
        )

    def stream_handle(self, stream: Any) -> int:
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        _call("finish its work", cudart.cudaStreamSynchronize, stream)

    def destroy_stream(self, stream: Any) -> None:
        _call("end a stream", cudart.cudaStreamDestroy, stream)

    def begin_capture(self, stream: Any) -> None:
        # Thread-local, so that another thread may allocate an embedding meanwhile.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("begin a capture", cudart.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: Any) -> Any:
        graph = _call("end a capture", cudart.cudaStreamEndCapture, stream)
        try:
            return _call("instantiate a graph", cudart.cudaGraphInstantiate, graph, 0)
        finally:
            _call("end a graph", cudart.cudaGraphDestroy, graph)

    def launch(self, graph: Any, stream: Any) -> None:
        _call("launch a graph", cudart.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        _call("end a graph", cudart.cudaGraphExecDestroy, graph)

    def _copy(self, destination: int, source: int, nbytes: int, stream: Any) -> None:
        # With unified addressing CUDA infers the direction from the addresses.
        kind = cudart.cudaMemcpyKind.cudaMemcpyDefault
        _call("copy", cudart.cudaMemcpyAsync, destination, source, nbytes, kind, stream)


def _call(doing: str, function: Any, *arguments: Any) -> Any:
    """Call CUDA; raise an error in words, or return the one result or a tuple of several."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # the driver library is missing
        raise BackendError(f"CUDA could not {doing}: {error}") from error
    if status == cudart.cudaError_t.cudaErrorMemoryAllocation:
        raise DeviceMemoryError(
            f"the GPU's memory is full: CUDA could not {doing}; close other programs that use it, "
            "or lower the cache's size"
        )
    if status != cudart.cudaError_t.cudaSuccess:
        raise BackendError(
            f"the GPU could not {doing}: {status.name}; open the segmenter again, and if it "
            "happens again, see dmesg for the driver's messages"
        )
    return results[0] if len(results) == 1 else tuple(results)
