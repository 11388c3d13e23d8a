"""A TensorRT made of ONNX Runtime, on the planted GPU: an engine file holds an ONNX graph.

It is as strict as the real one where it matters: contexts need scratch memory for their shapes, run
once before they are captured, and read and write the addresses that they were given.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from samihs_runtime.backends import tensorrt as tensorrt_backend
from samihs_runtime.backends import tensorrt_engines
from samihs_runtime.backends.contract import DECODER, ENCODER, tensor_shapes
from samihs_runtime.backends.cuda import Device
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.bundle import Bundle, sha256_of
from samihs_runtime.bundle.opened import GraphFiles
from samihs_runtime.errors import BackendError

from .planted_gpu import GPU, PlantedCuda, memory

VERSION = "1.7.1"
PLANTED_BATCH = 4
"""The largest batch of the engines that :func:`plant_engines` writes, unless told otherwise."""
TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}


class PlantedContext:
    def __init__(self, engine: PlantedEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.has_memory = self.has_run = False
        self.scratch = engine.device_memory_size_v2  # until it is asked for that of its shapes

    def update_device_memory_size_for_shapes(self) -> int:
        batch, most = next(iter(self.shapes.values()))[0], PLANTED_BATCH
        self.scratch = self.engine.device_memory_size_v2 * batch // most
        return self.scratch

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert self.shapes, "its shapes come first, as in trtexec"
        assert nbytes >= self.scratch
        self.has_memory = True

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if size < 0 else size for size in self.engine.get_tensor_shape(name))

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.world.capturable

    def execute_async_v3(self, handle: int) -> bool:
        assert self.has_memory, "no scratch memory was given"
        stream = self.engine.world.cuda.streams[handle]
        if stream.capture is not None:
            assert self.has_run, "TensorRT sets a context up in its first run: never capture that"
        self.has_run = True
        if self.engine.world.refuses:
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        stream.put(lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        session = self.engine.session
        feeds = {
            each.name: memory(addresses[each.name], shapes[each.name], TYPES[each.type])
            for each in session.get_inputs()
        }
        for output, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            memory(addresses[output.name], array.shape, TYPES[output.type])[...] = array


class PlantedRuntimeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob if blob.startswith(b"kernels of ") else b""
        return bool(self.content)

    def serialize(self) -> memoryview:
        return memoryview(self.content)


class PlantedRuntimeConfig:
    cache: PlantedRuntimeCache | None = None
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: object) -> None:
        assert strategy == 2

    def create_runtime_cache(self) -> PlantedRuntimeCache:
        return PlantedRuntimeCache()

    def set_runtime_cache(self, cache: PlantedRuntimeCache) -> bool:
        self.cache = cache
        return True


class PlantedEngine:
    device_memory_size_v2 = 4096

    def __init__(self, world: PlantedTensorRT, content: bytes) -> None:
        self.world = world
        self.load(content)
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)

    def load(self, content: bytes) -> None:
        self.content = content
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # tiny graphs: more threads only wait for each other
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @property
    def refittable(self) -> bool:
        return bool(self.weights())

    def weights(self) -> list[str]:
        graph = onnx.load_from_string(self.content).graph
        return [each.name for each in graph.initializer if each.name in self.world.marked]

    def _named(self, name: str) -> Any:
        return next(each for each in self.tensors if each.name == name)

    def get_tensor_name(self, index: int) -> str:
        return str(self.tensors[index].name)

    def get_tensor_mode(self, name: str) -> str:
        inputs = [each.name for each in self.session.get_inputs()]
        return "input" if name in inputs else "output"

    def get_tensor_dtype(self, name: str) -> type:
        return TYPES[self._named(name).type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(each if isinstance(each, int) else -1 for each in self._named(name).shape)

    def create_runtime_config(self) -> PlantedRuntimeConfig:
        return PlantedRuntimeConfig()

    def create_execution_context(self, how: object) -> PlantedContext | None:
        if self.world.contexts >= self.world.contexts_that_fit:
            return None
        self.world.contexts += 1
        if isinstance(how, PlantedRuntimeConfig):
            assert how.cache is not None, "the runtime cache was made but never set"
            strategy = how.dynamic_shapes_kernel_specialization_strategy
            assert strategy == "eager", "kernels would be exchanged after a graph was captured"
            self.world.compiled += not how.cache.content
            how.cache.content = b"kernels of " + type(self).__name__.encode()
        return PlantedContext(self)


class PlantedRefitter:
    """Reads host memory when it refits, and no sooner."""

    def __init__(self, engine: PlantedEngine, logger: object) -> None:
        self.engine = engine
        self.given: dict[str, tuple[type, int, int]] = {}

    def get_all_weights(self) -> list[str]:
        return self.engine.weights()

    def set_named_weights(self, name: str, weights: tuple[type, int, int]) -> bool:
        self.given[name] = weights
        return name in self.engine.weights()

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.engine.weights() if name not in self.given]

    def refit_cuda_engine(self) -> bool:
        model = onnx.load_from_string(self.engine.content)
        for tensor in model.graph.initializer:
            if tensor.name in self.given:
                dtype, address, count = self.given[tensor.name]
                array = memory(address, (count,), dtype).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        self.engine.load(model.SerializeToString())
        return True


class PlantedTensorRT(SimpleNamespace):
    """The module: ``Runtime`` deserialises an ONNX graph."""

    def __init__(self, cuda: PlantedCuda) -> None:
        super().__init__(
            __version__=VERSION,
            cuda=cuda,
            capturable=True,
            refuses=False,
            contexts=0,
            contexts_that_fit=999,
            compiled=0,
            IRuntimeCache=PlantedRuntimeCache,
            TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
            nptype=lambda dtype: dtype,
            marked=(),  # weights that engines were built to exchange
            Refitter=PlantedRefitter,
            Weights=lambda dtype, address, count: (dtype, address, count),
            DataType=SimpleNamespace(FLOAT=np.float32, HALF=np.float16),
        )

    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None: ...

    def Runtime(self, logger: object) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, content: bytes) -> PlantedEngine | None:
        if len(content) > self.cuda.free_bytes():
            return None
        try:
            return PlantedEngine(self, content)
        except Exception:  # as TensorRT: None, whatever was wrong
            return None


def plant_engines(
    bundle: Bundle,
    batch: int = PLANTED_BATCH,
    points: int = 6,
    files: GraphFiles | None = None,
    suffix: str = "",
    **changes: Any,
) -> None:
    """Write ``engines/`` for the bundle: its graphs (those for ONNX Runtime, if none are given)
    under other names, with sidecars. ``suffix``: of those names, such as ``.fp16``."""
    bundle.engines.mkdir(exist_ok=True)
    files = files or bundle.graph("onnx")
    low = tensor_shapes(bundle.manifest, 1, 2)
    high = tensor_shapes(bundle.manifest, batch, points)
    for contract, source in ((ENCODER, files.encoder), (DECODER, files.decoder)):
        engine = bundle.engines / f"{contract.part}{suffix}.engine"
        engine.write_bytes(Path(source).read_bytes())
        profile = {name: (low[name], low[name], high[name]) for name in contract.inputs}
        fields: dict[str, Any] = {
            "part": contract.part,
            "engine_sha256": sha256_of(engine),
            "onnx_sha256": sha256_of(source),
            "flavour": "tensorrt_rtx",
            "version": VERSION,
            "compute_capability": ("8.9",),
            "precision": files.precision,
            "profiles": (profile,),
        }
        EngineSidecar(**{**fields, **changes}).write(engine.with_suffix(".json"))


def plant_tensorrt(monkeypatch: pytest.MonkeyPatch, cuda: PlantedCuda) -> PlantedTensorRT:
    """A GPU with TensorRT-RTX, and no other flavour, for the TensorRT backend to find."""
    module = PlantedTensorRT(cuda)
    monkeypatch.setattr(tensorrt_backend, "probe_gpus", lambda: GPU)
    monkeypatch.setattr(tensorrt_backend, "open_device", lambda: Device(cuda))

    def import_flavour(flavour: str) -> PlantedTensorRT:
        if flavour == "tensorrt_rtx":
            return module
        raise BackendError(f"{flavour} is not installed: pip install 'samihs[tensorrt]'")

    monkeypatch.setattr(tensorrt_engines, "import_flavour", import_flavour)
    return module
