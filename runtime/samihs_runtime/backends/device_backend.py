"""What every backend on a GPU does alike, whatever runs the graphs: embeddings that stay there.

::

    DeviceBackend ── EmbeddingSlots         device memory of the embeddings
      ├── DeviceProgram "encoder"           one graph, with buffers and a stream of its own
      └── DeviceProgram "decoder"           the same, on an urgent stream

Two streams: encoding ahead delays a click by no more than the kernel that is running. Common shapes
are run when the backend opens (:mod:`warm_up`), so that no user waits for a first run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.contract import (
    DECODER,
    ENCODER,
    GraphContract,
    prior_feeds,
    tensor_shapes,
)
from samihs_runtime.backends.cuda import Device, DeviceMemoryError, Stream
from samihs_runtime.backends.device_embeddings import DeviceEmbedding, EmbeddingSlots
from samihs_runtime.backends.program_buffers import ProgramBuffers
from samihs_runtime.backends.warm_up import (
    MAX_DECODE_BATCH,
    MAX_ENCODE_BATCH,
    Shapes,
    common_shapes,
)
from samihs_runtime.closing import Closing
from samihs_runtime.errors import BackendError
from samihs_runtime.manifest import Manifest
from samihs_runtime.timing import Timings

R = TypeVar("R")
_LIMITS = {ENCODER.part: MAX_ENCODE_BATCH, DECODER.part: MAX_DECODE_BATCH}


@dataclass(frozen=True)
class GraphUse:
    """Whether a program replays CUDA graphs."""

    shapes: int
    """How many shapes have one."""
    refusal: str = ""
    """Why none has; empty where some have."""

    def __str__(self) -> str:
        return f"{self.shapes} shapes" if self.shapes else f"none ({self.refusal})"


class DeviceProgram(Protocol):
    """An encoder or a decoder on a GPU; not for two threads at once."""

    stream: Stream
    buffers: ProgramBuffers
    """Every input and output, for the largest batch."""

    @property
    def max_batch(self) -> int:
        """Most slices or prompts in one run."""
        ...

    @property
    def graphs(self) -> GraphUse:
        """Whether CUDA graphs are replayed."""
        ...

    def warm_up(self, every: Sequence[Shapes]) -> None:
        """Run each of these shapes until it is as fast as it gets; skip what is not taken.

        Raises:
            DeviceMemoryError: there is not enough memory for one of them.
        """
        ...

    def enqueue(self, feeds: Mapping[str, NDArray[Any]], device_shapes: Shapes) -> Shapes:
        """Put one run on the stream.

        Args:
            feeds: host inputs, by name.
            device_shapes: shapes of the inputs that lie in :attr:`buffers` already.

        Returns:
            The shapes of the outputs. Host outputs may be read after the stream's end.
        """
        ...

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        ...


class DeviceBackend(Closing):
    """See :class:`samihs_runtime.backends.base.Backend`.

    One thread may encode while another decodes; not two of a kind.
    """

    name = ""

    def __init__(
        self, device: Device, manifest: Manifest, description: str, timings: Timings
    ) -> None:
        """Load both programs and run the common shapes.

        Args:
            device: where everything lies.
            manifest: for the tensors' sizes.
            description: what runs, in words.
            timings: where loading and warming up are noted.

        Raises:
            BackendError: a program does not load; DeviceMemoryError where not even one slice fits.
            BundleError: its tensors are not the contract's.
        """
        self._description = description
        self._device = device
        self._manifest = manifest
        self._closed = False
        self._embedding_shape = tensor_shapes(manifest, 1, 1)["embedding"][1:]
        self._slots = EmbeddingSlots(device, self._embedding_shape, self.name)
        self._programs: dict[str, DeviceProgram] = {}
        try:
            self._load(timings)
        except BaseException:
            with suppress(BackendError):  # what went wrong first is what to say
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
        """The most that program and memory allow."""
        return self._program(ENCODER).max_batch

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """Encode in batches as large as program and memory allow."""
        program = self._program(ENCODER)
        embeddings: list[Embedding] = []
        for start in range(0, len(hu), program.max_batch):
            part = slice(start, start + program.max_batch)
            feeds = {"hu": hu[part], "window": window[part]}
            embeddings += self._at(ENCODER, partial(self._encode, program, feeds))
        return embeddings

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
        parts: list[Decoded] = []
        for start in range(0, len(points), program.max_batch):
            part = slice(start, start + program.max_batch)
            feeds = {name: feed[part] for name, feed in whole.items()}
            sources = self._sources(embeddings[part])
            parts.append(self._at(DECODER, partial(self._decode, program, sources, feeds)))
        if len(parts) == 1:
            return parts[0]
        return Decoded(
            np.concatenate([each.logits for each in parts]),
            np.concatenate([each.masks for each in parts]),
            np.concatenate([each.scores for each in parts]),
        )

    def close(self) -> None:
        """Free programs, embeddings and streams; calling it twice is harmless.

        In a process forked after the backend was opened nothing is freed: it is the parent's.
        """
        if self._closed or not self._device.is_ours:
            return
        self._closed = True
        with ExitStack() as stack:  # all of it, even on a device that was lost
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
        """Do work of one program on the thread that it belongs to; here the caller's."""
        return work()

    def _end_threads(self) -> None:
        """End the threads of :meth:`_at`, where there are any."""

    def _load(self, timings: Timings) -> None:
        """Both programs, with the largest batches that the memory allows."""
        share = 1
        while True:
            try:
                for contract in (ENCODER, DECODER):
                    self._load_one(contract, max(1, _LIMITS[contract.part] // share), timings)
            except DeviceMemoryError:
                if share >= max(_LIMITS.values()):
                    raise
            else:
                return
            self._drop_programs()
            share *= 2

    def _load_one(self, contract: GraphContract, limit: int, timings: Timings) -> None:
        with timings.stage(f"load {contract.part}"):
            program = self._at(contract, partial(self._make_program, contract, limit))
        self._programs[contract.part] = program
        every = common_shapes(contract, self._manifest, program.max_batch)
        with timings.stage(f"warm up {contract.part}"):
            self._at(contract, partial(program.warm_up, every))

    def _drop_programs(self) -> None:
        for contract in (DECODER, ENCODER):
            program = self._programs.pop(contract.part, None)
            if program is not None:
                self._at(contract, program.close)

    def _encode(
        self, program: DeviceProgram, feeds: Mapping[str, NDArray[Any]]
    ) -> list[DeviceEmbedding]:
        # Each handle owns its slot from here on, even where the next finds no memory.
        handles = [DeviceEmbedding(self._slots) for _ in range(len(feeds["hu"]))]
        program.enqueue(feeds, {})
        source, nbytes = program.buffers.device["embedding"], self._slots.nbytes
        for index, handle in enumerate(handles):
            program.stream.copy(handle.slot, source, nbytes, start=index * nbytes)
        program.stream.synchronize()
        return handles

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
        # One copy out of pinned memory each: the next run writes there again.
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
        self._device.check()  # before a thread is asked that a forked child does not have
        return self._programs[contract.part]
