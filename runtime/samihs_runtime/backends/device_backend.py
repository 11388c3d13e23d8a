"""What all GPU backends have in common, whatever runs the graphs: embeddings stay on the device.

::

    DeviceBackend ── EmbeddingSlots         device memory of the embeddings
      ├── DeviceProgram "encoder"           one graph, with its own buffers and stream
      └── DeviceProgram "decoder"           the same, on an urgent stream

With two streams, encoding ahead delays a click by no more than the kernel that is running. One
slice and one click are run when the backend opens, so that a backend that cannot run is detected
while another can still be chosen. A common shape (:mod:`warm_up`) is prepared when it first occurs,
or by :meth:`DeviceBackend.warm_up` before anyone waits for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.batch_limit import BatchLimit
from samihs_runtime.backends.capture_lock import CAPTURE_LOCK
from samihs_runtime.backends.contract import (
    DECODER,
    ENCODER,
    GraphContract,
    prior_feeds,
    tensor_shapes,
)
from samihs_runtime.backends.cuda import Device
from samihs_runtime.backends.device_embeddings import DeviceEmbedding, EmbeddingSlots
from samihs_runtime.backends.device_program import DeviceProgram, GraphUse
from samihs_runtime.backends.warm_up import (
    MAX_DECODE_BATCH,
    MAX_ENCODE_BATCH,
    common_sizes,
    input_shapes,
)
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.closing import Closing
from samihs_runtime.errors import BackendError, DeviceMemoryError
from samihs_runtime.timing import Timings

R = TypeVar("R")
_LIMITS = {ENCODER.part: MAX_ENCODE_BATCH, DECODER.part: MAX_DECODE_BATCH}


class DeviceBackend(Closing):
    """See :class:`samihs_runtime.backends.base.Backend`.

    One thread may encode while another decodes, but no two threads may do the same.
    """

    name = ""
    precision: str

    def __init__(
        self, device: Device, manifest: Manifest, description: str, timings: Timings
    ) -> None:
        """Load both programs, and run each once.

        Args:
            device: the GPU to use.
            manifest: for the tensors' sizes.
            description: what runs, in words.
            timings: where loading and warming up are recorded.

        Raises:
            BackendError: a program does not load or does not run; DeviceMemoryError if not even
                one slice fits.
            BundleError: its tensors do not match the contract.
        """
        self._description = description
        self._device = device
        self._manifest = manifest
        self._timings = timings
        self._closed = False
        self._embedding_shape = tensor_shapes(manifest, 1, 1)["embedding"][1:]
        self._slots = EmbeddingSlots(device, self._embedding_shape, self.name)
        self._programs: dict[str, DeviceProgram] = {}
        self._limits: dict[str, BatchLimit] = {}
        try:
            with CAPTURE_LOCK.shared():
                self._load()
        except BaseException:
            with suppress(BackendError):  # report the first error, not one from closing
                self.close()
            raise

    @property
    def description(self) -> str:
        """What runs, in words, and whether CUDA graphs are replayed."""
        graphs = ", ".join(f"{part} {program.graphs}" for part, program in self._programs.items())
        return f"{self._description}; CUDA graphs: {graphs}" if graphs else self._description

    @property
    def graphs(self) -> dict[str, GraphUse]:
        """Whether CUDA graphs are replayed, by part."""
        return {part: program.graphs for part, program in self._programs.items()}

    @property
    def encode_batch(self) -> int:
        """The largest batch that program and memory allow."""
        self._program(ENCODER)
        return self._limits[ENCODER.part].most

    def load(self) -> None:
        """Nothing to do: both programs were loaded on opening."""

    def warm_up(self) -> None:
        """Prepare every common shape, so that no one waits for a first run.

        Raises:
            BackendError: the device failed; DeviceMemoryError if not even one slice fits.
        """
        for contract in (ENCODER, DECODER):
            self._program(contract)
            limit = self._limits[contract.part]
            while True:
                try:
                    self._warm_up(contract, self._common(contract))
                except DeviceMemoryError:
                    if not limit.lower(limit.most):
                        raise
                else:
                    break

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """Encode in batches as large as program and memory allow."""
        program = self._program(ENCODER)
        # Each handle owns its slot from here on, even if there is no memory for the next.
        handles = [DeviceEmbedding(self._slots) for _ in range(len(hu))]

        def encode(part: slice) -> None:
            feeds = {"hu": hu[part], "window": window[part]}
            work = partial(self._encode, program, feeds, handles[part])
            self._run(ENCODER, (len(feeds["hu"]), 1), work)

        self._limits[ENCODER.part].split(len(hu), encode)
        return handles

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        self._program(ENCODER)
        handle = DeviceEmbedding(self._slots)
        self._slots.from_host(handle.slot, embedding)
        return handle

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """Decode in batches as large as the program allows; prompts are independent."""
        program = self._program(DECODER)
        whole = {
            "points": points,
            "labels": labels,
            **prior_feeds(prior, len(points), self._manifest.mask_size),
        }
        sources = self._sources(embeddings)

        def decode(part: slice) -> Decoded:
            feeds = {name: feed[part] for name, feed in whole.items()}
            work = partial(self._decode, program, sources[part], feeds)
            return self._run(DECODER, feeds["labels"].shape, work)

        parts = self._limits[DECODER.part].split(len(points), decode)
        if len(parts) == 1:
            return parts[0]
        return Decoded(
            np.concatenate([each.logits for each in parts]),
            np.concatenate([each.masks for each in parts]),
            np.concatenate([each.scores for each in parts]),
        )

    def close(self) -> None:
        """Free programs, embeddings and streams; calling it twice is harmless.

        In a process forked after the backend was opened nothing is freed: it belongs to the parent.
        """
        if self._closed or not self._device.is_ours:
            return
        self._closed = True
        with (
            CAPTURE_LOCK.shared(),
            ExitStack() as stack,
        ):  # everything, even on a lost device
            stack.callback(self._end_threads)
            stack.callback(self._slots.close)
            for contract in (DECODER, ENCODER):
                program = self._programs.get(contract.part)
                if program is not None:
                    stack.callback(self._at, contract, program.close)

    @abstractmethod
    def _make_program(self, contract: GraphContract, batch_limit: int) -> DeviceProgram:
        """Load one graph for batches up to a limit."""

    def _at(self, contract: GraphContract, work: Callable[[], R]) -> R:
        """Do a program's work on the thread to which it belongs; here the caller's."""
        return work()

    def _end_threads(self) -> None:
        """End the threads of :meth:`_at`, if there are any."""

    def _load(self) -> None:
        """Load both programs, with the largest batches that the memory allows."""
        share = 1
        while True:
            try:
                for contract in (ENCODER, DECODER):
                    self._load_one(contract, max(1, _LIMITS[contract.part] // share))
            except DeviceMemoryError:
                if share >= max(_LIMITS.values()):
                    raise
            else:
                return
            self._drop_programs()
            share *= 2

    def _load_one(self, contract: GraphContract, limit: int) -> None:
        with self._timings.stage(f"load {contract.part}"):
            program = self._at(contract, partial(self._make_program, contract, limit))
            self._programs[contract.part] = program
            self._limits[contract.part] = BatchLimit(program.max_batch)
            smallest = common_sizes(contract, 1)[-1]
            shapes = input_shapes(contract, self._manifest, *smallest)
            self._at(contract, partial(program.try_out, shapes))

    def _run(self, contract: GraphContract, size: tuple[int, ...], work: Callable[[], R]) -> R:
        """Do one run's work; if memory is short, once more without the slots that nobody uses."""
        try:
            return self._run_once(contract, size, work)
        except DeviceMemoryError:
            if not self._slots.free_unused():
                raise
        return self._run_once(contract, size, work)

    def _run_once(self, contract: GraphContract, size: tuple[int, ...], work: Callable[[], R]) -> R:
        self._make_ready(contract, *size)
        with CAPTURE_LOCK.shared():
            return self._at(contract, work)

    def _make_ready(self, contract: GraphContract, batch: int, points: int) -> None:
        """Warm up a common shape when it first occurs, if the program needs that."""
        if (batch, points) in self._common(contract):
            shapes = input_shapes(contract, self._manifest, batch, points)
            if not self._programs[contract.part].is_ready(shapes):
                self._warm_up(contract, [(batch, points)])

    def _warm_up(self, contract: GraphContract, sizes: Sequence[tuple[int, int]]) -> None:
        program = self._programs[contract.part]
        every = [input_shapes(contract, self._manifest, *each) for each in sizes]
        with self._timings.stage(f"warm up {contract.part}"), CAPTURE_LOCK.exclusive():
            self._at(contract, partial(program.warm_up, every))
        self._limits[contract.part].note(max(batch for batch, _ in sizes))

    def _common(self, contract: GraphContract) -> list[tuple[int, int]]:
        return common_sizes(contract, self._limits[contract.part].most)

    def _drop_programs(self) -> None:
        for contract in (DECODER, ENCODER):
            program = self._programs.pop(contract.part, None)
            if program is not None:
                self._at(contract, program.close)

    def _encode(
        self,
        program: DeviceProgram,
        feeds: Mapping[str, NDArray[Any]],
        handles: Sequence[DeviceEmbedding],
    ) -> None:
        program.enqueue(feeds, {})
        source, nbytes = program.buffers.device["embedding"], self._slots.nbytes
        for index, handle in enumerate(handles):
            program.stream.copy(handle.slot, source, nbytes, start=index * nbytes)
        program.stream.synchronize()

    def _decode(
        self,
        program: DeviceProgram,
        sources: Sequence[DeviceEmbedding],
        feeds: Mapping[str, NDArray[Any]],
    ) -> Decoded:
        target, nbytes = program.buffers.device["embedding"], self._slots.nbytes
        for index, source in enumerate(sources):
            program.stream.copy(target, source.slot, nbytes, to=index * nbytes)
        shapes = program.enqueue(feeds, {"embedding": (len(sources), *self._embedding_shape)})
        program.stream.synchronize()
        logits, mask, score = (program.buffers.view(name, shapes[name]) for name in DECODER.outputs)
        # Copy each output from pinned memory, which the next run overwrites.
        return Decoded(logits[:, 0].copy(), mask.astype(bool), score.copy())

    def _sources(self, embeddings: Sequence[Embedding]) -> list[DeviceEmbedding]:
        found = []
        for each in embeddings:
            if not isinstance(each, DeviceEmbedding) or each.slots is not self._slots:
                raise TypeError(f"an embedding of another backend: {type(each).__name__}")
            found.append(each)
        return found

    def _program(self, contract: GraphContract) -> DeviceProgram:
        if self._closed:
            raise BackendError(f"the {self.name} backend is closed: open a new one")
        self._device.check()  # first: a forked child does not have the program's thread
        return self._programs[contract.part]
