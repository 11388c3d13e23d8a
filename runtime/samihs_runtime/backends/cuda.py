"""The device layer: buffers, streams and captured graphs of one GPU.

::

    open_device() -> Device ── CudaApi: pycuda if installed, otherwise cuda-python
      ├── DeviceBuffer   device memory; whoever allocates it owns and closes it
      ├── PinnedBuffer   page-locked host memory, as a numpy array
      ├── Stream         ordered work; ``urgent`` streams have priority over others
      └── Graph          work captured from a stream, launched again as a unit

Both APIs use the device's *primary* context, as torch and TensorRT do. Closing anything twice is
harmless. A process forked after the device was opened gets an error rather than CUDA's undefined
behaviour.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.cuda_api import Bytes, CudaApi
from samihs_runtime.errors import BackendError


class Device:
    """One GPU, through one API."""

    def __init__(self, api: CudaApi) -> None:
        self.api = api
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it; a forked child must not even free what it inherited."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Refuse to continue in a forked child.

        Raises:
            BackendError: this process was forked after the device was opened.
        """
        if not self.is_ours:
            raise BackendError(
                "this process was forked after CUDA was started: open the segmenter in the child, "
                "or start it with multiprocessing's 'spawn' method"
            )

    def free_bytes(self) -> int:
        """Bytes of the device's memory that no program uses at present."""
        self.check()
        return self.api.free_bytes()

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Device memory, contents undefined.

        Raises:
            DeviceMemoryError: there is not enough.
        """
        self.check()
        return DeviceBuffer(self.api, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> PinnedBuffer:
        """Page-locked host memory, zeroed."""
        self.check()
        return PinnedBuffer(self.api, shape, dtype)

    def stream(self, *, urgent: bool = False) -> Stream:
        """A stream that does not wait for the default stream."""
        self.check()
        return Stream(self, urgent)


class DeviceBuffer:
    """Device memory; whoever creates it is its only owner."""

    def __init__(self, api: CudaApi, nbytes: int) -> None:
        self._api = api
        self.nbytes = nbytes
        self.address = api.allocate(nbytes)

    def close(self) -> None:
        """Free it."""
        address, self.address = self.address, 0
        if address:
            self._api.free(address)


class PinnedBuffer:
    """Page-locked host memory: the only kind that is copied without blocking the host."""

    def __init__(self, api: CudaApi, shape: tuple[int, ...], dtype: str) -> None:
        self._api = api
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._raw: Bytes | None = api.allocate_pinned(nbytes)
        self._raw[:] = 0
        self.dtype = np.dtype(dtype)
        self.nbytes = nbytes

    def bytes(self, nbytes: int) -> Bytes:
        """The first bytes."""
        if self._raw is None:
            raise BackendError("a pinned buffer was used after it was closed")
        return self._raw[:nbytes]

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first elements as an array; valid until the buffer is closed."""
        return self.bytes(math.prod(shape) * self.dtype.itemsize).view(self.dtype).reshape(shape)

    def close(self) -> None:
        """Free it."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._api.free_pinned(raw)


class Stream:
    """Work that the device executes in order."""

    def __init__(self, device: Device, urgent: bool) -> None:
        self._device = device
        self._api = device.api
        self._raw = self._api.create_stream(urgent)

    @property
    def handle(self) -> int:
        """``cudaStream_t`` as TensorRT takes it."""
        return self._api.stream_handle(self._raw)

    def upload(self, target: DeviceBuffer, source: PinnedBuffer, nbytes: int) -> None:
        """Copy the first bytes of pinned memory to the device."""
        self._api.to_device(target.address, source.bytes(nbytes), self._raw)

    def download(self, target: PinnedBuffer, source: DeviceBuffer, nbytes: int) -> None:
        """Copy the first bytes of a device buffer to pinned memory."""
        self._api.to_host(target.bytes(nbytes), source.address, self._raw)

    def copy(
        self, target: DeviceBuffer, source: DeviceBuffer, nbytes: int, to: int = 0, start: int = 0
    ) -> None:
        """Copy bytes within the device, from offset ``start`` to offset ``to``."""
        if to + nbytes > target.nbytes or start + nbytes > source.nbytes:
            raise ValueError(f"copy of {nbytes} bytes leaves a buffer")
        self._api.on_device(target.address + to, source.address + start, nbytes, self._raw)

    def synchronize(self) -> None:
        """Wait for all work, and raise any error that occurred in it."""
        self._device.check()
        self._api.synchronize(self._raw)

    def begin_capture(self) -> None:
        """Record the work that follows instead of executing it."""
        self._api.begin_capture(self._raw)

    def end_capture(self) -> Graph:
        """Everything since :meth:`begin_capture`."""
        return Graph(self._api, self._api.end_capture(self._raw))

    def launch(self, graph: Graph) -> None:
        """Execute captured work."""
        self._api.launch(graph.raw, self._raw)

    def close(self) -> None:
        """Destroy it."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._api.destroy_stream(raw)


class Graph:
    """Captured work. It contains addresses of buffers, which must outlive it."""

    def __init__(self, api: CudaApi, raw: Any) -> None:
        self._api = api
        self.raw = raw

    def close(self) -> None:
        """Destroy it."""
        raw, self.raw = self.raw, None
        if raw is not None:
            self._api.destroy_graph(raw)


def open_device() -> Device:
    """The first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses).

    Raises:
        BackendError: neither pycuda nor cuda-python is installed, or CUDA does not start.
    """
    try:
        from samihs_runtime.backends.cuda_pycuda import PycudaApi

        return Device(PycudaApi())
    except ImportError:
        pass
    try:
        from samihs_runtime.backends.cuda_python import CudaPythonApi
    except ImportError as error:
        raise BackendError(
            f"neither pycuda nor cuda-python is installed ({error}): pip install 'samihs[gpu]'"
        ) from error
    return Device(CudaPythonApi())
