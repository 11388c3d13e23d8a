"""TensorRT and TensorRT-RTX: engines that were built for this GPU, behind the common protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samihs_runtime.backends.capture_lock import CAPTURE_LOCK
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract
from samihs_runtime.backends.cuda import Device, open_device
from samihs_runtime.backends.device_backend import DeviceBackend
from samihs_runtime.backends.exchange import Tensors, exchanged_tensors
from samihs_runtime.backends.probe import Gpu, probe_gpus
from samihs_runtime.backends.tensorrt_engines import EnginePair, find_engines
from samihs_runtime.backends.tensorrt_program import Program
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.errors import BackendError
from samihs_runtime.timing import Timings


class TensorRTBackend(DeviceBackend):
    """A backend that runs both engines of a pair."""

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
        """``exchanged``: for each part, another site's weights with which to refit its engine."""
        self.precision = pair.precision
        self._trt = trt
        self._exchanged = exchanged or {}
        self._engines = {
            ENCODER.part: (pair.encoder, pair.encoder_sidecar),
            DECODER.part: (pair.decoder, pair.decoder_sidecar),
        }
        super().__init__(device, manifest, description, timings)

    def warm_up(self) -> None:
        """Prepare every common shape, and keep what was compiled for the next process.

        A server that is killed never closes its backend.

        Raises:
            BackendError: the device failed; DeviceMemoryError if not even one slice fits.
        """
        super().warm_up()
        with CAPTURE_LOCK.shared():
            for program in self._programs.values():
                if isinstance(program, Program):
                    program.save_kernels()

    def _make_program(self, contract: GraphContract, batch_limit: int) -> Program:
        engine, sidecar = self._engines[contract.part]
        return Program(
            self._trt,
            self._device,
            engine,
            sidecar,
            contract,
            batch_limit=batch_limit,
            on_device=("embedding",),
            urgent=contract is DECODER,
            exchanged=self._exchanged.get(contract.part),
        )


def first_gpu() -> Gpu:
    """The GPU that the backend runs on. Raises BackendError: there is none, and why."""
    gpus = probe_gpus()
    if not gpus.devices:
        raise BackendError(f"no NVIDIA GPU can be used: {gpus.reason}")
    return gpus.devices[0]


def open_tensorrt(bundle: Bundle, timings: Timings) -> TensorRTBackend:
    """Open the engines of a bundle that fit this GPU and the installed TensorRT.

    Raises:
        BackendError: no GPU, no engines, none that fit, or a package is missing; says which, and
            the command that fixes it.
    """
    gpu = first_gpu()
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
