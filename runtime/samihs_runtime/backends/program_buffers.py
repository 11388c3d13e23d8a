"""Memory of one program on a GPU: a device buffer for each tensor, and pinned host memory for those
that are transferred."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.contract import GraphContract
from samihs_runtime.backends.cuda import Device, DeviceBuffer, PinnedBuffer, Stream
from samihs_runtime.backends.warm_up import Shapes
from samihs_runtime.closing import close_all

Shape = tuple[int, ...]


class ProgramBuffers:
    """Allocated once, for the largest shapes; every run uses the start of each. The only owner."""

    def __init__(
        self, device: Device, contract: GraphContract, on_device: tuple[str, ...] = ()
    ) -> None:
        """Allocates nothing yet.

        Args:
            device: where it runs.
            contract: names and types of the tensors.
            on_device: tensors that stay on the device, neither uploaded nor downloaded.
        """
        self.uploads = [each for each in contract.inputs if each not in on_device]
        self.downloads = [each for each in contract.outputs if each not in on_device]
        self.types = {**contract.inputs, **contract.outputs}
        self.device: dict[str, DeviceBuffer] = {}
        self.host: dict[str, PinnedBuffer] = {}
        self._device = device

    def allocate(self, largest: Shapes) -> None:
        """Allocate all of them; ``largest`` has the largest shape of every tensor.

        Raises:
            DeviceMemoryError: not enough memory; :meth:`close` frees what has been allocated.
        """
        for name, shape in largest.items():
            self.device[name] = self._device.allocate(self.nbytes(name, shape))
            if name in self.uploads or name in self.downloads:
                self.host[name] = self._device.pinned(shape, self.types[name])

    def nbytes(self, name: str, shape: Shape) -> int:
        """Bytes of a tensor of this shape."""
        return math.prod(shape) * np.dtype(self.types[name]).itemsize

    def write(self, name: str, feed: NDArray[Any]) -> None:
        """Copy an input into its pinned memory."""
        np.copyto(self.host[name].view(feed.shape), feed)

    def upload(self, stream: Stream, name: str, shape: Shape) -> None:
        """Enqueue the copy of an input to the device on the stream."""
        stream.upload(self.device[name], self.host[name], self.nbytes(name, shape))

    def download(self, stream: Stream, name: str, shape: Shape) -> None:
        """Enqueue the copy of an output to the host on the stream."""
        stream.download(self.host[name], self.device[name], self.nbytes(name, shape))

    def view(self, name: str, shape: Shape) -> NDArray[Any]:
        """An output of the run that has finished; valid until the next run."""
        return self.host[name].view(shape)

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        buffers, pinned = self.device, self.host
        self.device, self.host = {}, {}
        close_all([*buffers.values(), *pinned.values()])
