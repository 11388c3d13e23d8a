"""Run one TensorRT engine: buffers allocated once, one context and one CUDA graph per shape.

A captured graph contains addresses and shapes, so every shape in use has its own context. They
share the engine's weights, the buffers and the scratch memory, since a program runs on one stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samihs_runtime.backends.contract import GraphContract
from samihs_runtime.backends.cuda import Device, DeviceBuffer, Graph
from samihs_runtime.backends.device_program import GraphUse
from samihs_runtime.backends.engine_loading import deserialise, tensors_of
from samihs_runtime.backends.exchange import Tensors
from samihs_runtime.backends.kernel_cache import KernelCache
from samihs_runtime.backends.program_buffers import ProgramBuffers
from samihs_runtime.backends.refit import refit
from samihs_runtime.backends.sidecar import EngineSidecar, Shape
from samihs_runtime.backends.warm_up import Shapes, probe_inputs
from samihs_runtime.closing import close_all
from samihs_runtime.errors import BackendError, DeviceMemoryError, PromptError

MAX_SHAPES = 32
"""Contexts kept: 1 to 8 clicks on one lesion, 1 to 16 prompts of equal length, and some more."""


class Program:
    """A deserialised engine; not to be used by two threads at once."""

    def __init__(
        self,
        trt: Any,
        device: Device,
        engine: Path,
        sidecar: EngineSidecar,
        contract: GraphContract,
        *,
        batch_limit: int,
        on_device: tuple[str, ...],
        urgent: bool = False,
        exchanged: Tensors | None = None,
    ) -> None:
        """Deserialise and allocate.

        Args:
            trt: ``tensorrt`` or ``tensorrt_rtx``.
            device: where it runs.
            engine: file whose sidecar has been checked.
            sidecar: that sidecar, for the profiles.
            contract: tensors that it must have.
            batch_limit: most slices or prompts in one run, whatever the profiles allow.
            on_device: tensors that stay on the device, neither uploaded nor downloaded.
            urgent: whether its stream has priority over others.
            exchanged: another site's weights with which to refit the engine; None for its own.

        Raises:
            BackendError: it cannot be deserialised or refitted; DeviceMemoryError if memory is
                short.
            BundleError: its tensors do not match the contract.
        """
        self._profiles = sidecar.profiles
        self._limit = batch_limit
        self._refusal = ""
        self._shaped: OrderedDict[tuple[Shape, ...], _Shaped] = OrderedDict()
        self._api = device.api
        self._contract = contract
        self._runtime, self._engine = deserialise(trt, device, engine, sidecar)
        if exchanged is not None:
            refit(trt, self._engine, exchanged, engine)
        contract.check(*tensors_of(trt, self._engine), str(engine))
        self._kernels = KernelCache(trt, self._engine, engine, sidecar.engine_sha256)
        self.buffers = ProgramBuffers(device, contract, on_device)
        self._scratch: DeviceBuffer | None = None
        self.stream = device.stream(urgent=urgent)
        try:
            self._allocate(device)
        except BaseException:
            with suppress(BackendError):
                self.close()
            raise

    @property
    def max_batch(self) -> int:
        """Most slices or prompts in one run."""
        return min(self._limit, self._profile_batch)

    @property
    def _profile_batch(self) -> int:
        """The largest batch that any profile takes."""
        first = next(iter(self._contract.inputs))
        return max(each[first][2][0] for each in self._profiles)

    @property
    def graphs(self) -> GraphUse:
        """Whether CUDA graphs are replayed."""
        count = sum(each.graph is not None for each in self._shaped.values())
        if not self._api.supports_graphs:
            return GraphUse(0, f"{self._api.name} captures none: uninstall it to use cuda-python")
        return GraphUse(count, "" if count else self._refusal)

    def try_out(self, shapes: Shapes) -> None:
        """See :class:`samihs_runtime.backends.device_program.DeviceProgram`."""
        if self._profile_of(shapes) is not None:
            self._put(self._probed(shapes))
            self.stream.synchronize()

    def is_ready(self, shapes: Shapes) -> bool:
        """Always: a graph is captured after the first run, whatever its inputs were."""
        return True

    def warm_up(self, every: Sequence[Shapes]) -> None:
        """Set up a context for each of these shapes, and capture its graph.

        Shapes that no profile takes are skipped.

        Raises:
            DeviceMemoryError: there is not enough memory for one of them.
        """
        for shapes in every:
            if self._profile_of(shapes) is None:
                continue
            self._start(self._probed(shapes))
            self.stream.synchronize()

    def enqueue(self, feeds: Mapping[str, NDArray[Any]], device_shapes: Shapes) -> Shapes:
        """Put one run on the stream.

        Args:
            feeds: host inputs, by name.
            device_shapes: shapes of the inputs that are already in :attr:`buffers`.

        Returns:
            The shapes of the outputs. Host outputs may be read once the stream has finished.

        Raises:
            PromptError: more points than the engine's profiles take.
            BackendError: no profile takes these shapes, or TensorRT refuses to run.
        """
        shapes = {name: feed.shape for name, feed in feeds.items()} | dict(device_shapes)
        shaped = self._shaped_for({name: shapes[name] for name in self._contract.inputs})
        for name, feed in feeds.items():
            self.buffers.write(name, feed)
        self._start(shaped)
        return shaped.outputs

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        shaped, self._shaped = self._shaped, OrderedDict()
        scratch, self._scratch = self._scratch, None
        with ExitStack() as stack:  # everything, even if TensorRT cannot say what it compiled
            stack.callback(close_all, [self.stream] if scratch is None else [scratch, self.stream])
            stack.callback(self._release)
            stack.callback(close_all, [*shaped.values(), self._kernels, self.buffers])
            if self._engine is not None:
                self.save_kernels()

    def save_kernels(self) -> None:
        """Keep on disk what TensorRT-RTX has compiled so far, for the next process."""
        self._kernels.save()

    def _release(self) -> None:
        self._engine = self._runtime = None

    def _allocate(self, device: Device) -> None:
        largest = self._largest()
        self.buffers.allocate(largest)
        scratch = self._scratch_bytes({name: largest[name] for name in self._contract.inputs})
        self._scratch = device.allocate(scratch) if scratch else None

    def _scratch_bytes(self, largest: Shapes) -> int:
        """Scratch memory that runs of up to the largest inputs need.

        The engine's own figure is for the largest batch of its profiles; where memory is short and
        batches are smaller, TensorRT is asked for their share.
        """
        whole = int(self._engine.device_memory_size_v2)
        if self.max_batch == self._profile_batch or self._profile_of(largest) is None:
            return whole
        context = self._kernels.create_context()
        self._set_shapes(context, largest)
        return int(context.update_device_memory_size_for_shapes()) or whole  # 0: it does not know

    def _largest(self) -> dict[str, Shape]:
        """The largest shape of every tensor, over all profiles, within the batch limit."""
        largest: dict[str, Shape] = {}
        batch = self.max_batch
        for name in self._contract.inputs:
            shapes = [each[name][2] for each in self._profiles]
            _, *rest = (max(sizes) for sizes in zip(*shapes, strict=True))
            largest[name] = (batch, *rest)
        for name in self._contract.outputs:
            _, *rest = self._engine.get_tensor_shape(name)
            if any(size < 0 for size in rest):
                raise BackendError(
                    f"engine output {name} has a size that is not fixed: build the engines again"
                )
            largest[name] = (batch, *rest)
        return largest

    def _shaped_for(self, inputs: Shapes) -> _Shaped:
        key = tuple(inputs.values())
        shaped = self._shaped.get(key)
        if shaped is None:
            shaped = self._make(inputs)
            self._shaped[key] = shaped
            if len(self._shaped) > MAX_SHAPES:
                self.stream.synchronize()
                self._shaped.popitem(last=False)[1].close()
        self._shaped.move_to_end(key)
        return shaped

    def _make(self, inputs: Shapes) -> _Shaped:
        context = self._kernels.create_context()
        self._set_shapes(context, inputs)
        if self._scratch is not None:
            self._give_scratch(context, self._scratch)
        for name, buffer in self.buffers.device.items():
            context.set_tensor_address(name, buffer.address)
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._contract.outputs}
        return _Shaped(context, dict(inputs), outputs)

    def _set_shapes(self, context: Any, inputs: Shapes) -> None:
        """Set a new context, which has profile 0, to these inputs."""
        profile = self._profile_for(inputs)
        if profile and not context.set_optimization_profile_async(profile, self.stream.handle):
            raise BackendError(f"TensorRT refused optimization profile {profile}")
        self.stream.synchronize()
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise BackendError(f"TensorRT refused {name} of shape {shape}")

    def _give_scratch(self, context: Any, scratch: DeviceBuffer) -> None:
        """Let a context that is set to its shapes use the scratch memory."""
        if scratch.nbytes < int(self._engine.device_memory_size_v2):
            needed = int(context.update_device_memory_size_for_shapes())
            if not 0 < needed <= scratch.nbytes:
                raise DeviceMemoryError(
                    f"the {self._contract.part} needs {needed} bytes of scratch memory, and "
                    f"{scratch.nbytes} were free when it was loaded: close other programs that use "
                    "the GPU, and open the segmenter again"
                )
        context.set_device_memory(scratch.address, scratch.nbytes)

    def _profile_for(self, inputs: Shapes) -> int:
        index = self._profile_of(inputs)
        if index is not None:
            return index
        if "points" in inputs:
            most = max(each["points"][2][1] for each in self._profiles)
            if inputs["points"][1] > most:
                raise PromptError(
                    f"{inputs['points'][1]} points: the decoder engine takes {most} at most, "
                    "SAM's own among them; give fewer points, or build the engines with larger "
                    "profiles"
                )
        raise BackendError(
            f"no profile of the {self._contract.part} engine takes {dict(inputs)}: build the "
            "engines with larger profiles"
        )

    def _profile_of(self, inputs: Shapes) -> int | None:
        for index, profile in enumerate(self._profiles):
            if all(_within(shape, profile[name]) for name, shape in inputs.items()):
                return index
        return None

    def _probed(self, inputs: Shapes) -> _Shaped:
        """A context for these shapes, with meaningless inputs in pinned memory."""
        feeds = probe_inputs(self._contract, inputs, 0)
        for name in self.buffers.uploads:
            self.buffers.write(name, feeds[name])
        return self._shaped_for(inputs)

    def _start(self, shaped: _Shaped) -> None:
        """Put a run on the stream; after the first, capture a graph for the following ones.

        If a capture fails, the shape has no graph, but the run still gives its answer.
        """
        if shaped.graph is not None:
            self.stream.launch(shaped.graph)
            return
        self._put(shaped)  # not captured: TensorRT sets up a context in its first run
        if shaped.failed_capture:
            return
        if not self._capturable(shaped.context):
            self._refusal = "TensorRT says that its work cannot be captured"
            return
        try:
            shaped.graph = self._capture(shaped)
        except BackendError as error:
            shaped.failed_capture = True
            self._refusal = f"a capture failed: {error}"

    def _put(self, shaped: _Shaped) -> None:
        for name in self.buffers.uploads:
            self.buffers.upload(self.stream, name, shaped.inputs[name])
        if not shaped.context.execute_async_v3(self.stream.handle):
            raise BackendError(
                f"TensorRT could not run the {self._contract.part}: open the segmenter again"
            )
        for name in self.buffers.downloads:
            self.buffers.download(self.stream, name, shaped.outputs[name])

    def _capturable(self, context: Any) -> bool:
        if not self._api.supports_graphs:
            return False
        # Of TensorRT-RTX alone. An engine that allocates memory as it runs cannot be captured.
        asks = getattr(context, "is_stream_capturable", None)
        return asks is None or bool(asks(self.stream.handle))

    def _capture(self, shaped: _Shaped) -> Graph:
        self.stream.begin_capture()
        try:
            self._put(shaped)
        except BaseException:
            with suppress(BackendError):  # ending a failed capture fails too: report the cause
                self.stream.end_capture().close()
            raise
        return self.stream.end_capture()


class _Shaped:
    """A context set to one shape, and its graph once it has been captured."""

    def __init__(self, context: Any, inputs: Shapes, outputs: Shapes) -> None:
        self.context = context
        self.inputs = inputs
        self.outputs = outputs
        self.graph: Graph | None = None
        self.failed_capture = False

    def close(self) -> None:
        if self.graph is not None:
            self.graph.close()
        self.context = None


def _within(shape: Shape, bounds: tuple[Shape, Shape, Shape]) -> bool:
    low, _, high = bounds
    return len(shape) == len(low) and all(
        a <= size <= b for a, size, b in zip(low, shape, high, strict=True)
    )
