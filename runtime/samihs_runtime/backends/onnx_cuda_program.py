"""One ONNX Runtime session on its CUDA provider: fixed buffers, and a CUDA graph per common shape.

What ONNX Runtime asks of a graph, and what is done about it here (its documentation of the CUDA
provider, ``cuda_execution_provider.cc`` and ``cuda_graph.cc``):

- ``enable_cuda_graph`` in the session's provider options, and ``gpu_graph_id`` in each run's: an
  own one for each shape, -1 for a run without; 0 is its own. It compares nothing: an id replays
  what it was captured with, whatever is bound. So each id has one binding here.
- Every node on the CUDA provider, no control flow, no copies to the host: else the session is
  refused, and the program goes on without graphs and says why.
- Inputs and outputs at the same addresses each time: they lie in buffers made once. Outputs bound
  to no buffer would come from the session's arena, where a replay writes its intermediates.
- Nothing may be allocated while it captures: a plain run of the shape goes before.
- It captures in CUDA's global mode: a ``cudaMalloc`` of any thread meanwhile spoils the capture.
  So shapes are captured in :meth:`OrtProgram.warm_up` and never later.
- Graphs, like cuBLAS handles, belong to the thread that captured them: every run must be on it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.contract import GraphContract
from samihs_runtime.backends.cuda import Device, DeviceMemoryError, PinnedBuffer
from samihs_runtime.backends.device_backend import GraphUse
from samihs_runtime.backends.onnx_runtime import faults_of
from samihs_runtime.backends.program_buffers import ProgramBuffers
from samihs_runtime.backends.warm_up import Shapes, probe_inputs
from samihs_runtime.closing import close_all
from samihs_runtime.errors import BackendError, BundleError

NO_GRAPH = -1
"""``gpu_graph_id`` of a run that neither captures nor replays."""
_REPLAY_TOLERANCE = 1e-2
"""Of the largest magnitude. The same kernels ran: what differs is the order of atomic additions;
a replay that reads memory which is no longer its own is off by more than that."""
_REPLAY_AGREEMENT = 0.999

OpenSession = Callable[[int, bool], Any]
"""(stream handle, with CUDA graphs) -> session."""


@dataclass(frozen=True, eq=False)
class _Bound:
    """One shape, bound to the program's buffers."""

    binding: Any
    options: Any
    outputs: Shapes


class _CaptureError(Exception):
    """A graph could not be captured, or replays wrongly; the program goes on without any."""


class OrtProgram:
    """See :class:`samihs_runtime.backends.device_backend.DeviceProgram`.

    All calls but the first must come from one thread, the one that made it.
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
        """Allocate, and open the session.

        Args:
            ort: the onnxruntime module, for its ``RunOptions``.
            device: where it runs.
            open_session: makes the session on a stream, with or without CUDA graphs.
            contract: its tensors.
            largest: of every tensor, the largest shape; the first size is the batch.
            on_device: tensors that stay on the device: neither uploaded nor downloaded.
            urgent: whether its stream goes before others.
            graphs: whether to replay CUDA graphs where that can be done.

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
        self._captured: dict[tuple[tuple[int, ...], ...], _Bound] = {}
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

    def warm_up(self, every: Sequence[Shapes]) -> None:
        """Run each shape, capture its graph, and prove that its replay gives what a run gives.

        Where one cannot be captured the session is opened again without graphs, and the reason is
        kept in :attr:`graphs`. No other thread of this process should allocate device memory
        meanwhile, or the capture may fail for that.

        Raises:
            DeviceMemoryError: there is not enough memory for one of the shapes.
            BackendError: the device failed.
        """
        staging = {
            name: self._device.pinned(self._largest[name], dtype)
            for name, dtype in self.buffers.types.items()
            if name not in self.buffers.host
        }
        try:
            if not self._refusal and self._graphs_of(every, staging):
                return
            for shapes in every:
                self._feed(shapes, staging, 0)
                self._run(self._bind(shapes, NO_GRAPH))
        finally:
            with suppress(BackendError):  # a lost device: what it was lost in is what to say
                close_all(staging.values())

    def enqueue(self, feeds: Mapping[str, NDArray[Any]], device_shapes: Shapes) -> Shapes:
        """See :class:`samihs_runtime.backends.device_backend.DeviceProgram`.

        Raises:
            BackendError: more points than there is room for, or the device failed;
                DeviceMemoryError where memory is short.
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
        # The session's graphs hold addresses of the buffers, and it works on the stream: it first.
        self._captured, self._session = {}, None
        close_all([self.buffers, self.stream])

    def _open(self) -> None:
        if not self._refusal:
            try:
                self._session = self._open_session(self.stream.handle, True)
            except DeviceMemoryError:
                raise
            except (BackendError, BundleError) as error:
                self._refusal = _words(error)  # whatever else is wrong shows without graphs, too
            else:
                return
        self._session = self._open_session(self.stream.handle, False)

    def _restart(self) -> None:
        """The session once more, on a stream that no broken capture has touched."""
        self._captured, self._session = {}, None
        with suppress(BackendError):
            self.stream.close()
        self.stream = self._device.stream(urgent=self._urgent)
        self._open()

    def _graphs_of(self, every: Sequence[Shapes], staging: Mapping[str, PinnedBuffer]) -> bool:
        """Capture all, or none and start again without graphs; whether they were captured."""
        try:
            self._capture(every, staging)
            self._prove(every, staging)
        except _CaptureError as error:
            self._refusal = str(error)
        else:
            return True
        self._restart()
        return False

    def _capture(self, every: Sequence[Shapes], staging: Mapping[str, PinnedBuffer]) -> None:
        for graph_id, shapes in enumerate(every, 1):
            self._feed(shapes, staging, 0)  # whatever lies there might index out of a table
            self._run(self._bind(shapes, NO_GRAPH))
            bound = self._bind(shapes, graph_id)
            try:
                # One run for us is several for ONNX Runtime: plain ones, the capture, a replay.
                self._run(bound)
            except BackendError as error:
                raise _CaptureError(f"no graph of {_sizes(shapes)}: {_words(error)}") from error
            self._captured[self._key(shapes)] = bound

    def _prove(self, every: Sequence[Shapes], staging: Mapping[str, PinnedBuffer]) -> None:
        """Replay each graph on inputs that it was not captured with, beside a plain run.

        After all were captured: only then is the memory that they share in everybody's use.
        """
        for shapes in every:
            try:
                self._feed(shapes, staging, 1)
                replayed = self._outputs(self._captured[self._key(shapes)], staging)
                plain = self._outputs(self._bind(shapes, NO_GRAPH), staging)
            except BackendError as error:
                raise _CaptureError(f"no replay of {_sizes(shapes)}: {_words(error)}") from error
            for name, expected in plain.items():
                if not _alike(replayed[name], expected):
                    raise _CaptureError(f"a replay of {_sizes(shapes)} gave another {name}")

    def _feed(self, shapes: Shapes, staging: Mapping[str, PinnedBuffer], seed: int) -> None:
        """Upload probe inputs of these shapes, those that stay on the device as well."""
        for name, feed in probe_inputs(self._contract, shapes, seed).items():
            pinned = staging.get(name) or self.buffers.host[name]
            np.copyto(pinned.view(feed.shape), feed)
            self.stream.upload(self.buffers.device[name], pinned, feed.nbytes)

    def _outputs(
        self, bound: _Bound, staging: Mapping[str, PinnedBuffer]
    ) -> dict[str, NDArray[Any]]:
        """Run, and copy the outputs to the host."""
        self._run(bound)
        copied = {}
        for name, shape in bound.outputs.items():
            pinned = staging.get(name) or self.buffers.host[name]
            self.stream.download(
                pinned, self.buffers.device[name], self.buffers.nbytes(name, shape)
            )
            self.stream.synchronize()
            copied[name] = pinned.view(shape).astype(np.float32)  # a copy: the next run comes
        return copied

    def _bind(self, shapes: Shapes, graph_id: int) -> _Bound:
        batch = _batch_of(shapes)
        outputs = {name: (batch, *self._largest[name][1:]) for name in self._contract.outputs}
        bound = {name: shapes[name] for name in self._contract.inputs} | outputs
        binding = self._session.io_binding()
        for name, shape in bound.items():
            buffer, dtype = self.buffers.device[name], np.dtype(self.buffers.types[name])
            if self.buffers.nbytes(name, shape) > buffer.nbytes:
                raise BackendError(
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

    def _key(self, shapes: Shapes) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(shapes[name]) for name in self._contract.inputs)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether all but one value in a thousand agree: a mask's edge may lie on a threshold."""
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
    """What ONNX Runtime itself said, short enough for a report."""
    return textwrap.shorten(str(error.__cause__ or error), 200, placeholder=" ...")
