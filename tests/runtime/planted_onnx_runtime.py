"""An ONNX Runtime whose CUDA provider is its CPU provider, to test the I/O binding around it.

Everything bound to device ``cuda`` lies in host memory; what is bound and how is the real thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

CUDA = "CUDAExecutionProvider"


class PlantedBinding:
    def __init__(self, session: Any, log: list[str]) -> None:
        self._real = session.io_binding()
        self._log = log

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._log.append(f"upload {name}")
        self._real.bind_cpu_input(name, array)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self._real.bind_ortvalue_input(name, value)

    def bind_output(self, name: str, device: str) -> None:
        if device == "cpu":
            self._log.append(f"download {name}")
        self._real.bind_output(name, "cpu")

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def copy_outputs_to_cpu(self) -> Any:
        return self._real.copy_outputs_to_cpu()


class PlantedSession:
    def __init__(self, world: PlantedOrt, path: str, sess_options: Any) -> None:
        self._world = world
        self._real = ort.InferenceSession(path, sess_options, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def io_binding(self) -> PlantedBinding:
        return PlantedBinding(self._real, self._world.log)

    def run_with_iobinding(self, binding: PlantedBinding) -> None:
        if self._world.fault:
            raise RuntimeError(self._world.fault)
        self._real.run_with_iobinding(binding._real)


class PlantedOrt(SimpleNamespace):
    """The module, as far as the CUDA backend uses it."""

    def __init__(self) -> None:
        super().__init__(__version__="1.99", SessionOptions=ort.SessionOptions, log=[], fault="")
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=lambda array, device, index: ort.OrtValue.ortvalue_from_numpy(array)
        )

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def InferenceSession(self, path: str, sess_options: Any, providers: Sequence[Any]) -> Any:
        ((provider, options),) = providers
        assert provider == CUDA
        self.options = options
        return PlantedSession(self, path, sess_options)
