"""Embeddings in device memory: slots are allocated when needed, and reused.

They are freed with their backend, and those not in use when memory is short.

An embedding is copied to the host only on request: the encoder's program copies into its slot and
the decoder's program out of it, both on the device.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.capture_lock import CAPTURE_LOCK
from samihs_runtime.backends.cuda import Device, DeviceBuffer, PinnedBuffer, Stream
from samihs_runtime.closing import close_all
from samihs_runtime.errors import BackendError


class DeviceEmbedding:
    """An embedding [E, G, G] in a slot of device memory, which is returned with this handle."""

    def __init__(self, slots: EmbeddingSlots) -> None:
        self.slots = slots
        self.slot = slots.take()
        # Not at interpreter exit: the driver frees everything, and CUDA calls are no longer safe.
        weakref.finalize(self, slots.give_back, self.slot).atexit = False

    @property
    def nbytes(self) -> int:
        return self.slot.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.slots.to_host(self.slot)


class EmbeddingSlots:
    """Device memory for embeddings of one shape, and its only owner."""

    def __init__(self, device: Device, shape: tuple[int, ...], backend: str) -> None:
        """Allocates no memory yet.

        Args:
            device: the GPU to use.
            shape: [E, G, G] of one embedding, float32.
            backend: its name, for errors.
        """
        self.nbytes = int(np.prod(shape)) * 4
        self._device = device
        self._shape = shape
        self._backend = backend
        self._all: list[DeviceBuffer] = []
        self._free: list[DeviceBuffer] = []
        self._lock = threading.RLock()  # a handle may be collected, and give back, inside take()

    def take(self) -> DeviceBuffer:
        """A slot, contents undefined.

        Raises:
            DeviceMemoryError: none is free, and there is no memory for another.
        """
        self._device.check()  # before the lock, which a forked child may find held for ever
        with CAPTURE_LOCK.shared(), self._lock:
            if not self._free:
                self._free.append(self._device.allocate(self.nbytes))
                self._all.append(self._free[-1])
            return self._free.pop()

    def give_back(self, slot: DeviceBuffer) -> None:
        """Make the slot available again."""
        with self._lock:
            if slot.address:  # otherwise it was closed with the backend
                self._free.append(slot)

    def free_unused(self) -> bool:
        """Free the slots that no embedding holds; False if there are none."""
        with CAPTURE_LOCK.shared(), self._lock:
            unused, self._free = self._free, []
            self._all = [each for each in self._all if each not in unused]
            close_all(unused)
        return bool(unused)

    def to_host(self, slot: DeviceBuffer) -> NDArray[np.float32]:
        """A copy [E, G, G] of a slot's contents."""
        if not slot.address:
            raise BackendError(f"the {self._backend} backend is closed: its embeddings are gone")
        with self._staging() as (stream, pinned):
            stream.download(pinned, slot, slot.nbytes)
            stream.synchronize()
            return pinned.view(self._shape).copy()

    def from_host(self, slot: DeviceBuffer, array: NDArray[np.float32]) -> None:
        """Fill a slot with an embedding [E, G, G].

        Raises:
            ValueError: an array of another size.
        """
        if array.nbytes != slot.nbytes:
            raise ValueError(f"an embedding of {array.nbytes} bytes, expected {slot.nbytes}")
        with self._staging() as (stream, pinned):
            np.copyto(pinned.view(self._shape), array)
            stream.upload(slot, pinned, slot.nbytes)
            stream.synchronize()

    def close(self) -> None:
        """Free all slots; handles that still hold one become useless."""
        with self._lock:
            slots, self._all, self._free = self._all, [], []
            close_all(slots)

    @contextmanager
    def _staging(self) -> Iterator[tuple[Stream, PinnedBuffer]]:
        """A stream and pinned memory for one transfer; clicks need none."""
        self._device.check()
        with CAPTURE_LOCK.shared():
            stream = self._device.stream()
            try:
                pinned = self._device.pinned(self._shape, "float32")
                try:
                    yield stream, pinned
                finally:
                    pinned.close()
            finally:
                stream.close()
