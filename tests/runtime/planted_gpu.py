"""A GPU made of host memory, to test what drives one.

It is as strict as a real one where it matters: work put on a stream happens at the stream's end and
no sooner, a captured graph replays the addresses and shapes it was captured with, memory is
counted, and freeing twice is an error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.probe import Gpu, GpuProbe
from samihs_runtime.errors import BackendError, DeviceMemoryError

Work = Callable[[], None]
GPU = GpuProbe((Gpu(0, "Planted GPU", "8.9", 24 << 30),), (13, 0), "")


class PlantedStream:
    def __init__(self, handle: int, urgent: bool) -> None:
        self.handle = handle
        self.urgent = urgent
        self.queue: list[Work] = []
        self.capture: list[Work] | None = None

    def put(self, work: Work) -> None:
        (self.queue if self.capture is None else self.capture).append(work)


class PlantedCuda:
    """The device layer's API over host memory."""

    name = "planted"

    def __init__(self, memory: int = 1 << 30, supports_graphs: bool = True) -> None:
        self.supports_graphs = supports_graphs
        self.memory = memory
        self.live: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, PlantedStream] = {}
        self.graphs: list[list[Work]] = []
        self.downloads: list[int] = []
        self.allocations = self.launches = self.created = 0
        self.lost = False

    def free_bytes(self) -> int:
        return self.memory - sum(each.nbytes for each in self.live.values())

    def allocate(self, nbytes: int) -> int:
        if nbytes > self.free_bytes():
            raise DeviceMemoryError("the GPU's memory is full")
        block = np.full(nbytes, 0xA5, np.uint8)  # real device memory is not zero either
        self.live[block.ctypes.data] = block
        self.allocations += 1
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        del self.live[address]
        if self.lost:  # as CUDA: every call after the loss reports it
            raise BackendError("the GPU could not free memory: cudaErrorDevicesUnavailable")

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        block = np.empty(nbytes, np.uint8)
        self.pinned[block.ctypes.data] = block
        self.allocations += 1
        return block

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        del self.pinned[array.ctypes.data]
        if self.lost:
            raise BackendError("the GPU could not free pinned memory: cudaErrorDevicesUnavailable")

    def to_device(self, address: int, host: NDArray[np.uint8], stream: PlantedStream) -> None:
        source, count = host.ctypes.data, host.nbytes
        stream.put(lambda: move(address, source, count))

    def to_host(self, host: NDArray[np.uint8], address: int, stream: PlantedStream) -> None:
        target, count = host.ctypes.data, host.nbytes

        def work() -> None:
            self.downloads.append(count)
            move(target, address, count)

        stream.put(work)

    def on_device(self, destination: int, source: int, nbytes: int, stream: PlantedStream) -> None:
        stream.put(lambda: move(destination, source, nbytes))

    def create_stream(self, urgent: bool) -> PlantedStream:
        self.created += 1
        stream = PlantedStream(0x1000 + self.created, urgent)
        self.streams[stream.handle] = stream
        return stream

    def stream_handle(self, stream: PlantedStream) -> int:
        return stream.handle

    def synchronize(self, stream: PlantedStream) -> None:
        if self.lost:
            raise BackendError("the GPU could not finish its work: cudaErrorDevicesUnavailable")
        assert stream.capture is None, "synchronising a stream under capture is an error in CUDA"
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()

    def destroy_stream(self, stream: PlantedStream) -> None:
        del self.streams[stream.handle]

    def begin_capture(self, stream: PlantedStream) -> None:
        stream.capture = []

    def end_capture(self, stream: PlantedStream) -> list[Work]:
        assert stream.capture is not None
        graph, stream.capture = stream.capture, None
        self.graphs.append(graph)
        return graph

    def launch(self, graph: list[Work], stream: PlantedStream) -> None:
        assert any(graph is each for each in self.graphs), "a destroyed graph was launched"
        self.launches += 1
        stream.queue.extend(graph)

    def destroy_graph(self, graph: list[Work]) -> None:
        self.graphs = [each for each in self.graphs if each is not graph]


def move(target: int, source: int, nbytes: int) -> None:
    ctypes.memmove(target, source, nbytes)


def memory(address: int, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
    return block.view(dtype).reshape(shape)
