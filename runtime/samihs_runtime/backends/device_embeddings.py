"""Embeddings in device memory: slots made when first needed, used again, freed with their backend.

A handle never sees the host unless it is asked to: the encoder's program copies into its slot, the
decoder's program out of it, both on the device.
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
    """An embedding [E, G, G] in a slot of device memory, which goes back with this handle."""

    def __init__(self, slots: EmbeddingSlots) -> None:
        self.slots = slots
        self.slot = slots.take()
        # At the interpreter's end the driver frees all; CUDA calls are no longer safe there.
        weakref.finalize(self, slots.give_back, self.slot).atexit = False

    @property
    def nbytes(self) -> int:
        return self.slot.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.slots.to_host(self.slot)


class EmbeddingSlots:
    """Device memory for embeddings of one shape; the one owner of it."""

    def __init__(self, device: Device, shape: tuple[int, ...], backend: str) -> None:
        """No memory is taken yet.

        Args:
            device: where they lie.
            shape: [E, G, G] of one embedding, float32.
            backend: its name, for errors.
        """
        self.nbytes = int(np.prod(shape)) * 4
        self._device = device
        self._shape = shape
        self._backend = backend
        self._all: list[DeviceBuffer] = []
        self._free: list[DeviceBuffer] = []
        self._lock = threading.RLock()  # a handle may die, and give back, inside take()

    def take(self) -> DeviceBuffer:
        """A slot, contents undefined.

        Raises:
            DeviceMemoryError: none is free, and there is no memory for another.
        """
        self._device.check()  # before a lock is asked that a forked child may find taken
        with CAPTURE_LOCK.shared(), self._lock:
            if not self._free:
                self._free.append(self._device.allocate(self.nbytes))
                self._all.append(self._free[-1])
            return self._free.pop()

    def give_back(self, slot: DeviceBuffer) -> None:
        """Let the slot be used again."""
        with self._lock:
            if slot.address:  # closed with the backend otherwise
                self._free.append(slot)

    def to_host(self, slot: DeviceBuffer) -> NDArray[np.float32]:
        """A copy [E, G, G] of what a slot holds."""
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
        """A stream and pinned memory for one trip; clicks make none."""
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
