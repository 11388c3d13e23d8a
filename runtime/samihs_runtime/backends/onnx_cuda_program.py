"""One ONNX Runtime session on its CUDA provider: fixed buffers, and a CUDA graph per common shape.

What ONNX Runtime requires for CUDA graphs, and how it is met here (see its documentation of the
CUDA provider, ``cuda_execution_provider.cc`` and ``cuda_graph.cc``):

- ``enable_cuda_graph`` in the session's provider options, and ``gpu_graph_id`` in each run's: a
  separate id for each shape, -1 for a run without a graph; 0 is ONNX Runtime's own default. It
  compares nothing: an id replays what it was captured with, whatever is bound. So each id has
  exactly one binding here.
- Every node on the CUDA provider, no control flow, no copies to the host. Otherwise the session is
  refused, and the program continues without graphs and says why.
- Inputs and outputs at the same addresses every time: they are in buffers allocated once. Outputs
  without a bound buffer would come from the session's arena, where a replay writes intermediates.
- Nothing may be allocated during a capture, so a plain run of the same shape comes first.
- It captures in CUDA's global mode: a ``cudaMalloc`` in any thread meanwhile invalidates the
  capture. So shapes are captured only in :meth:`OrtProgram.warm_up`, whose caller holds
  ``capture_lock.py``'s lock exclusively.
- Graphs, like cuBLAS handles, belong to the thread that captured them: every run must be on it.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.contract import GraphContract
from samihs_runtime.backends.cuda import Device, PinnedBuffer
from samihs_runtime.backends.device_program import GraphUse
from samihs_runtime.backends.onnx_runtime import faults_of
from samihs_runtime.backends.program_buffers import ProgramBuffers
from samihs_runtime.backends.warm_up import Shapes, probe_inputs
from samihs_runtime.closing import close_all
from samihs_runtime.errors import BackendError, BundleError, DeviceMemoryError, PromptError

Staging = Mapping[str, PinnedBuffer]
Outputs = Mapping[str, NDArray[Any]]
NO_GRAPH = -1
"""``gpu_graph_id`` of a run that neither captures nor replays."""
_CAPTURE, _PROOF = 0, 1
"""Seeds of the inputs that a graph is captured with, and verified on."""
_REPLAY_TOLERANCE = 1e-2
"""Relative to the largest magnitude. The same kernels ran, so only the order of atomic additions
differs; a replay that reads memory that is no longer its own is off by more than that."""
_REPLAY_AGREEMENT = 0.999

Key = tuple[tuple[int, ...], ...]
OpenSession = Callable[[int, bool], Any]
"""(stream handle, with CUDA graphs) -> session."""


@dataclass(frozen=True, eq=False)
class _Bound:
    """One shape, bound to the program's buffers."""

    binding: Any
    options: Any
    outputs: Shapes


class _CaptureError(Exception):
    """A graph could not be captured or replays wrongly; the program continues without graphs."""


class OrtProgram:
    """See :class:`samihs_runtime.backends.device_program.DeviceProgram`.

    All later calls must come from the thread that created it.
    """

    def __init__(
        self,
        ort: Any,
        device: Device,
        open_session: OpenSession,
        contract: GraphContract,
        largest: Shapes,
        *,
        on_device: tuple[str, ...],
        urgent: bool,
        graphs: bool,
    ) -> None:
        """Allocate buffers and open the session.

        Args:
            ort: the onnxruntime module, for its ``RunOptions``.
            device: where it runs.
            open_session: makes the session on a stream, with or without CUDA graphs.
            contract: its tensors.
            largest: the largest shape of every tensor; the first size is the batch.
            on_device: tensors that stay on the device, neither uploaded nor downloaded.
            urgent: whether its stream has priority over others.
            graphs: whether to replay CUDA graphs where possible.

        Raises:
            DeviceMemoryError: there is not enough memory.
            BackendError, BundleError: no session can be opened, with or without graphs.
        """
        self._ort = ort
        self._device = device
        self._open_session = open_session
        self._contract = contract
        self._largest = largest
        self._urgent = urgent
        self._captured: dict[Key, _Bound] = {}
        self._ids = itertools.count(1)
        self._refusal = "" if graphs else "asked to run without"
        self._session: Any = None
        self.buffers = ProgramBuffers(device, contract, on_device)
        self.stream = device.stream(urgent=urgent)
        try:
            self.buffers.allocate(largest)
            self._open()
        except BaseException:
            with suppress(BackendError):
                self.close()
            raise

    @property
    def max_batch(self) -> int:
        """Most slices or prompts in one run."""
        return _batch_of(self._largest)

    @property
    def graphs(self) -> GraphUse:
        """Whether CUDA graphs are replayed."""
        return GraphUse(len(self._captured), self._refusal)

    def try_out(self, shapes: Shapes) -> None:
        """See :class:`samihs_runtime.backends.device_program.DeviceProgram`."""
        with self._staging([shapes]) as staging:
            self._feed(shapes, staging, 0)
            self._run(self._bind(shapes, NO_GRAPH))

    def is_ready(self, shapes: Shapes) -> bool:
        """Whether its graph has been captured, or none will be."""
        return bool(self._refusal) or self._key(shapes) in self._captured

    def warm_up(self, every: Sequence[Shapes]) -> None:
        """Run each shape, capture its graph, and verify that a replay gives the same as a run.

        If one cannot be captured, the session is reopened without graphs and the reason is kept in
        :attr:`graphs`. Meanwhile no other thread of this process should allocate device memory,
        since that may make the capture fail.

        Raises:
            DeviceMemoryError: there is not enough memory for one of the shapes.
            BackendError: the device failed.
        """
        due = [shapes for shapes in every if self._key(shapes) not in self._captured]
        if not due:
            return
        with self._staging(due) as staging:
            if not self._refusal:
                if self._capture_all(due, staging):
                    return
                self._restart()
            for shapes in due:
                self._plain(shapes, staging)

    def enqueue(self, feeds: Mapping[str, NDArray[Any]], device_shapes: Shapes) -> Shapes:
        """See :class:`samihs_runtime.backends.device_program.DeviceProgram`.

        Raises:
            PromptError: more points than there is room for.
            BackendError: the device failed; DeviceMemoryError if memory is short.
        """
        shapes = {name: feed.shape for name, feed in feeds.items()} | dict(device_shapes)
        bound = self._captured.get(self._key(shapes)) or self._bind(shapes, NO_GRAPH)
        for name, feed in feeds.items():
            self.buffers.write(name, feed)
            self.buffers.upload(self.stream, name, feed.shape)
        self._run(bound)
        for name in self.buffers.downloads:
            self.buffers.download(self.stream, name, bound.outputs[name])
        return bound.outputs

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        # The session first: its graphs contain the buffers' addresses, and it uses the stream.
        self._captured, self._session = {}, None
        close_all([self.buffers, self.stream])

    def _open(self) -> None:
        if not self._refusal:
            try:
                self._session = self._open_session(self.stream.handle, True)
            except DeviceMemoryError:
                raise
            except (BackendError, BundleError) as error:
                self._refusal = _words(error)  # any other fault will also occur without graphs
            else:
                return
        self._session = self._open_session(self.stream.handle, False)

    def _restart(self) -> None:
        """Reopen the session, on a stream that no failed capture has touched."""
        self._captured, self._session = {}, None
        with suppress(BackendError):
            self.stream.close()
        self.stream = self._device.stream(urgent=self._urgent)
        self._open()

    def _capture_all(self, every: Sequence[Shapes], staging: Staging) -> bool:
        """Capture all, then verify all; if one fails, keep the reason and return False."""
        plain: list[Outputs] = []
        captured: dict[Key, _Bound] = {}
        try:
            for shapes in every:
                plain.append(self._plain(shapes, staging))
                captured[self._key(shapes)] = self._capture(shapes, staging)
            for shapes, expected in zip(every, plain, strict=True):
                self._prove(shapes, captured[self._key(shapes)], expected, staging)
        except _CaptureError as error:
            self._refusal = str(error)
            return False
        self._captured |= captured
        return True

    def _plain(self, shapes: Shapes, staging: Staging) -> Outputs:
        """Outputs of a plain run on the verification inputs. This run also allocates all the memory
        that a capture needs."""
        self._feed(shapes, staging, _PROOF)
        return self._outputs(self._bind(shapes, NO_GRAPH), staging)

    def _capture(self, shapes: Shapes, staging: Staging) -> _Bound:
        bound = self._bind(shapes, next(self._ids))
        try:
            self._feed(shapes, staging, _CAPTURE)
            # This one call is several runs in ONNX Runtime: plain ones, the capture, a replay.
            self._run(bound)
        except BackendError as error:
            raise _CaptureError(f"no graph of {_sizes(shapes)}: {_words(error)}") from error
        return bound

    def _prove(self, shapes: Shapes, bound: _Bound, expected: Outputs, staging: Staging) -> None:
        """Replay a graph on inputs that it was not captured with, and compare the outputs.

        A plain run on other inputs comes first, so that the memory shared by runs and graphs, and
        the outputs, contain that run's values: a replay that writes elsewhere would leave them.
        """
        try:
            self._feed(shapes, staging, _CAPTURE)
            self._run(self._bind(shapes, NO_GRAPH))
            self._feed(shapes, staging, _PROOF)
            replayed = self._outputs(bound, staging)
        except BackendError as error:
            raise _CaptureError(f"no replay of {_sizes(shapes)}: {_words(error)}") from error
        for name, array in expected.items():
            if not _alike(replayed[name], array):
                raise _CaptureError(f"a replay of {_sizes(shapes)} gave another {name}")

    @contextmanager
    def _staging(self, every: Sequence[Shapes]) -> Iterator[Staging]:
        """Pinned memory for tensors that otherwise stay on the device."""
        largest = [
            max((self._tensors(shapes)[name] for shapes in every), key=math.prod)
            for name in self.buffers.types
        ]
        made: dict[str, PinnedBuffer] = {}
        try:
            for (name, dtype), shape in zip(self.buffers.types.items(), largest, strict=True):
                if name not in self.buffers.host:
                    made[name] = self._device.pinned(shape, dtype)
            yield made
        finally:
            with suppress(BackendError):  # a lost device: report the error that lost it instead
                close_all(made.values())

    def _feed(self, shapes: Shapes, staging: Staging, seed: int) -> None:
        """Upload probe inputs of these shapes, even those that otherwise stay on the device."""
        for name, feed in probe_inputs(self._contract, shapes, seed).items():
            pinned = staging.get(name) or self.buffers.host[name]
            np.copyto(pinned.view(feed.shape), feed)
            self.stream.upload(self.buffers.device[name], pinned, feed.nbytes)

    def _outputs(self, bound: _Bound, staging: Staging) -> Outputs:
        """Run, and copy the outputs to the host."""
        self._run(bound)
        copied = {}
        for name, shape in bound.outputs.items():
            pinned = staging.get(name) or self.buffers.host[name]
            self.stream.download(
                pinned, self.buffers.device[name], self.buffers.nbytes(name, shape)
            )
            self.stream.synchronize()
            copied[name] = pinned.view(shape).copy()  # the next run overwrites it
        return copied

    def _bind(self, shapes: Shapes, graph_id: int) -> _Bound:
        if self._session is None:  # closed after a failed capture, and reopening failed
            raise BackendError(
                f"the {self._contract.part}'s session could not be opened again: "
                "open the segmenter again"
            )
        bound = self._tensors(shapes)
        outputs = {name: bound[name] for name in self._contract.outputs}
        binding = self._session.io_binding()
        for name, shape in bound.items():
            buffer, dtype = self.buffers.device[name], np.dtype(self.buffers.types[name])
            if self.buffers.nbytes(name, shape) > buffer.nbytes:
                # Batches are split to fit, and all slices have one size: only points can exceed it.
                raise PromptError(
                    f"{name} of shape {shape}: there is room for {self._largest[name]}; give fewer "
                    "points"
                )
            bind = binding.bind_output if name in outputs else binding.bind_input
            bind(name, "cuda", 0, dtype.type, list(shape), buffer.address)
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return _Bound(binding, options, outputs)

    def _run(self, bound: _Bound) -> None:
        with faults_of("cuda", self._contract):
            self._session.run_with_iobinding(bound.binding, bound.options)

    def _tensors(self, inputs: Shapes) -> Shapes:
        """The shapes of all tensors, including outputs."""
        shapes = {name: inputs[name] for name in self._contract.inputs}
        batch = _batch_of(shapes)
        outputs = {name: (batch, *self._largest[name][1:]) for name in self._contract.outputs}
        return shapes | outputs

    def _key(self, shapes: Shapes) -> Key:
        return tuple(tuple(shapes[name]) for name in self._contract.inputs)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether all but one in a thousand values agree: a mask's edge may lie at the threshold."""
    one, other = one.astype(np.float32), other.astype(np.float32)
    finite = np.abs(other[np.isfinite(other)])
    scale = float(finite.max()) if finite.size else 0.0
    near = np.isclose(one, other, rtol=0, atol=_REPLAY_TOLERANCE * scale, equal_nan=True)
    return bool(near.mean() >= _REPLAY_AGREEMENT)


def _batch_of(shapes: Shapes) -> int:
    return next(iter(shapes.values()))[0]


def _sizes(shapes: Shapes) -> str:
    return f"batch {_batch_of(shapes)}" + (
        f" of {shapes['points'][1]} points" if "points" in shapes else ""
    )


def _words(error: Exception) -> str:
    """ONNX Runtime's own message, shortened for a report."""
    return textwrap.shorten(str(error.__cause__ or error), 200, placeholder=" ...")
