"""TensorRT and TensorRT-RTX: embeddings live in device memory and never see the host.

Two streams: clicks run on an urgent one, so that encoding ahead delays a click by no more than the
kernel that is running.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract, tensor_shapes
from samihs_runtime.backends.cuda import (
    Device,
    DeviceBuffer,
    DeviceMemoryError,
    PinnedBuffer,
    Stream,
    open_device,
)
from samihs_runtime.backends.exchange import Tensors, exchanged_tensors
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.backends.tensorrt_engines import EnginePair, find_engines
from samihs_runtime.backends.tensorrt_program import Program
from samihs_runtime.bundle import Bundle
from samihs_runtime.closing import Closing, close_all
from samihs_runtime.errors import BackendError
from samihs_runtime.manifest import Manifest
from samihs_runtime.timing import Timings

MAX_ENCODE_BATCH, MAX_DECODE_BATCH = 8, 16


class DeviceEmbedding:
    """An embedding [E, G, G] in a slot of device memory, which goes back with this handle."""

    def __init__(self, slots: _Slots, slot: DeviceBuffer, shape: tuple[int, ...]) -> None:
        self.slot = slot
        self.slots = slots
        self._shape = shape
        # At the interpreter's end the driver frees all; CUDA calls are no longer safe there.
        weakref.finalize(self, slots.give_back, slot).atexit = False

    @property
    def nbytes(self) -> int:
        return self.slot.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.slots.to_host(self.slot, self._shape)


class TensorRTBackend(Closing):
    """See :class:`samihs_runtime.backends.base.Backend`.

    One thread may encode while another decodes; not two of a kind.
    """

    name = "tensorrt"

    def __init__(
        self,
        trt: Any,
        device: Device,
        pair: EnginePair,
        manifest: Manifest,
        description: str,
        timings: Timings,
        exchanged: Mapping[str, Tensors | None] | None = None,
    ) -> None:
        """``exchanged``: by part, another site's weights to refit its engine with."""
        self.description, self.precision = description, pair.precision
        self._exchanged = exchanged or {}
        self._device = device
        self._manifest = manifest
        self._trt = trt
        self._closed = False
        self._streams = {ENCODER.part: device.stream(), DECODER.part: device.stream(urgent=True)}
        shapes = tensor_shapes(manifest, 1, 1)
        self._embedding_shape = shapes["embedding"][1:]
        self._embedding_bytes = int(np.prod(self._embedding_shape)) * 4
        self._slots = _Slots(device, self._embedding_bytes)
        self._programs: dict[str, Program] = {}
        try:
            self._load(pair, timings)
        except BaseException:
            self.close()
            raise

    @property
    def encode_batch(self) -> int:
        """The most that engine and memory allow."""
        return self._program(ENCODER).max_batch

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """Encode in batches as large as the engine and the memory allow."""
        program = self._program(ENCODER)
        embeddings: list[Embedding] = []
        for start in range(0, len(hu), program.max_batch):
            part = slice(start, start + program.max_batch)
            count = len(hu[part])
            # Each handle owns its slot from here on, even where the next finds no memory.
            handles = [self._handle() for _ in range(count)]
            program.enqueue({"hu": hu[part], "window": window[part]}, {})
            for index, handle in enumerate(handles):
                begin = index * self._embedding_bytes
                source = program.buffers["embedding"]
                program.stream.copy(handle.slot, source, self._embedding_bytes, start=begin)
            program.stream.synchronize()
            embeddings += handles
        return embeddings

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        self._program(ENCODER)
        handle = self._handle()
        self._slots.from_host(handle.slot, embedding)
        return handle

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """Decode in batches as large as the engine allows; prompts are independent."""
        program = self._program(DECODER)
        parts = []
        for start in range(0, len(points), program.max_batch):
            part = slice(start, start + program.max_batch)
            chosen = None if prior is None else prior[part]
            parts.append(
                self._decode(program, embeddings[part], points[part], labels[part], chosen)
            )
        logits, masks, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Decoded(logits, masks, scores)

    def close(self) -> None:
        """Free programs, embeddings and streams; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        close_all([*self._programs.values(), self._slots, *self._streams.values()])

    def _load(self, pair: EnginePair, timings: Timings) -> None:
        """Both programs, with the largest batches that the memory allows."""
        parts = (
            (ENCODER, pair.encoder, pair.encoder_sidecar, MAX_ENCODE_BATCH),
            (DECODER, pair.decoder, pair.decoder_sidecar, MAX_DECODE_BATCH),
        )
        share = 1
        while True:
            try:
                for contract, path, sidecar, most in parts:
                    with timings.stage(f"load {contract.part}"):
                        self._programs[contract.part] = Program(
                            self._trt,
                            self._device,
                            self._streams[contract.part],
                            path,
                            sidecar,
                            contract,
                            batch_limit=max(1, most // share),
                            on_device=("embedding",),
                            exchanged=self._exchanged.get(contract.part),
                        )
            except DeviceMemoryError:
                for program in self._programs.values():
                    program.close()
                if share >= max(MAX_ENCODE_BATCH, MAX_DECODE_BATCH):
                    raise
                share *= 2
            else:
                return

    def _decode(
        self,
        program: Program,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        count, low = len(points), self._manifest.mask_size
        for index, embedding in enumerate(embeddings):
            if not isinstance(embedding, DeviceEmbedding) or embedding.slots is not self._slots:
                raise TypeError(f"an embedding of another backend: {type(embedding).__name__}")
            target = program.buffers["embedding"]
            begin = index * self._embedding_bytes
            program.stream.copy(target, embedding.slot, self._embedding_bytes, to=begin)
        feeds = {
            "points": points,
            "labels": labels,
            "prior": np.zeros((count, 1, low, low), np.float32)
            if prior is None
            else prior.reshape(count, 1, low, low),
            "has_prior": np.full(count, prior is not None, np.float32),
        }
        shapes = program.enqueue(feeds, {"embedding": (count, *self._embedding_shape)})
        program.stream.synchronize()
        logits, mask, score = (program.read(name, shapes[name]) for name in DECODER.outputs)
        return logits[:, 0], mask.astype(bool), score

    def _handle(self) -> DeviceEmbedding:
        return DeviceEmbedding(self._slots, self._slots.take(), self._embedding_shape)

    def _program(self, contract: GraphContract) -> Program:
        if self._closed:
            raise BackendError("the tensorrt backend is closed: open a new one")
        self._device.check()
        return self._programs[contract.part]


class _Slots:
    """Device memory for embeddings: made when first needed, used again, owned here."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device = device
        self._nbytes = nbytes
        self._all: list[DeviceBuffer] = []
        self._free: list[DeviceBuffer] = []
        self._lock = threading.RLock()  # a handle may die, and give back, inside take()

    def take(self) -> DeviceBuffer:
        with self._lock:
            if not self._free:
                self._free.append(self._device.allocate(self._nbytes))
                self._all.append(self._free[-1])
            return self._free.pop()

    def give_back(self, slot: DeviceBuffer) -> None:
        with self._lock:
            if slot.address:  # closed with the backend otherwise
                self._free.append(slot)

    def to_host(self, slot: DeviceBuffer, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if not slot.address:
            raise BackendError("the tensorrt backend is closed: its embeddings are gone")
        with self._staging(shape) as (stream, pinned):
            stream.download(pinned, slot, slot.nbytes)
            stream.synchronize()
            return pinned.view(shape).copy()

    def from_host(self, slot: DeviceBuffer, array: NDArray[np.float32]) -> None:
        if array.nbytes != slot.nbytes:
            raise ValueError(f"an embedding of {array.nbytes} bytes, expected {slot.nbytes}")
        with self._staging(array.shape) as (stream, pinned):
            np.copyto(pinned.view(array.shape), array)
            stream.upload(slot, pinned, slot.nbytes)
            stream.synchronize()

    @contextmanager
    def _staging(self, shape: tuple[int, ...]) -> Iterator[tuple[Stream, PinnedBuffer]]:
        """A stream and pinned memory for one trip; clicks make none."""
        stream = self._device.stream()
        try:
            pinned = self._device.pinned(shape, "float32")
            try:
                yield stream, pinned
            finally:
                pinned.close()
        finally:
            stream.close()

    def close(self) -> None:
        with self._lock:
            slots, self._all, self._free = self._all, [], []
            close_all(slots)


def open_tensorrt(bundle: Bundle, timings: Timings) -> TensorRTBackend:
    """The engines of a bundle that fit this GPU and the TensorRT that is installed.

    Raises:
        BackendError: no GPU, no engines, none that fit, or a package is missing; says which, and
            the command that mends it.
    """
    gpus = probe_gpus()
    if not gpus.devices:
        raise BackendError(f"no NVIDIA GPU can be used: {gpus.reason}")
    gpu = gpus.devices[0]
    with timings.stage("check engines"):
        pair, trt = find_engines(bundle, gpu.compute_capability)
    device = open_device()
    description = (
        f"{pair.flavour} {trt.__version__} through {device.api.name}, {gpu.name}, {pair.precision}"
    )
    exchanged = {
        part: exchanged_tensors(bundle, "trt", pair.precision, part)
        for part in (ENCODER.part, DECODER.part)
    }
    return TensorRTBackend(trt, device, pair, bundle.manifest, description, timings, exchanged)
