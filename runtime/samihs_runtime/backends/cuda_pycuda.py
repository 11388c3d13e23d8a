"""The device layer through pycuda, if it has been built. pycuda cannot capture CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pycuda.driver as driver

from samihs_runtime.backends.cuda_api import Bytes
from samihs_runtime.errors import BackendError, DeviceMemoryError

R = TypeVar("R")


class PycudaApi:
    """See :class:`samihs_runtime.backends.cuda_api.CudaApi`.

    pycuda binds a context to a thread: each call pushes the primary context and pops it again.
    """

    name = "pycuda"
    supports_graphs = False

    def __init__(self) -> None:
        _guard("start CUDA", driver.init)
        device = _guard("start CUDA", lambda: driver.Device(0))
        self._context = _guard("start CUDA", device.retain_primary_context)
        self._memory: dict[int, Any] = {}

    def free_bytes(self) -> int:
        free, _ = self._do("measure its free memory", driver.mem_get_info)
        return int(free)

    def allocate(self, nbytes: int) -> int:
        block = self._do(f"allocate {nbytes} bytes", lambda: driver.mem_alloc(nbytes))
        self._memory[int(block)] = block  # pycuda frees memory with its object, so keep the object
        return int(block)

    def free(self, address: int) -> None:
        self._do("free memory", self._memory.pop(address).free)

    def allocate_pinned(self, nbytes: int) -> Bytes:
        array: Bytes = self._do(
            f"pin {nbytes} bytes", lambda: driver.pagelocked_empty(nbytes, np.uint8)
        )
        return array

    def free_pinned(self, array: Bytes) -> None:
        base: Any = array.base
        self._do("free pinned memory", base.free)

    def to_device(self, address: int, host: Bytes, stream: Any) -> None:
        self._do("copy", lambda: driver.memcpy_htod_async(address, host, stream))

    def to_host(self, host: Bytes, address: int, stream: Any) -> None:
        self._do("copy", lambda: driver.memcpy_dtoh_async(host, address, stream))

    def on_device(self, destination: int, source: int, nbytes: int, stream: Any) -> None:
        self._do("copy", lambda: driver.memcpy_dtod_async(destination, source, nbytes, stream))

    def create_stream(self, urgent: bool) -> Any:  # pycuda has no stream priorities
        return self._do("make a stream", driver.Stream)

    def stream_handle(self, stream: Any) -> int:
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        self._do("finish its work", stream.synchronize)

    def destroy_stream(self, stream: Any) -> None:
        """pycuda destroys a stream with its object."""

    def begin_capture(self, stream: Any) -> None:
        raise BackendError("pycuda captures no CUDA graphs: install cuda-python for that")

    def end_capture(self, stream: Any) -> Any:
        raise BackendError("pycuda captures no CUDA graphs: install cuda-python for that")

    def launch(self, graph: Any, stream: Any) -> None:
        raise BackendError("pycuda captures no CUDA graphs: install cuda-python for that")

    def destroy_graph(self, graph: Any) -> None:
        """There are no graphs."""

    def _do(self, doing: str, action: Callable[[], R]) -> R:
        def within() -> R:
            self._context.push()
            try:
                return action()
            finally:
                self._context.pop()

        return _guard(doing, within)


def _guard(doing: str, action: Callable[[], R]) -> R:
    try:
        return action()
    except driver.MemoryError as error:
        raise DeviceMemoryError(
            f"the GPU's memory is full: pycuda could not {doing}; close other programs that use "
            "it, or lower the cache's size"
        ) from error
    except driver.Error as error:
        raise BackendError(f"the GPU could not {doing}: {error}") from error
