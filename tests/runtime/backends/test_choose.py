"""Which backend is taken, what is said of the others, and that a forced one is never replaced."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from samihs_runtime.backends import choose as choose_module
from samihs_runtime.backends import onnx_cuda, onnx_runtime
from samihs_runtime.backends.choose import ORDER, choose
from samihs_runtime.backends.cuda import Device
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.backends.probe import GpuProbe, _probe
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BackendError, BundleError, UsageError
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import GPU, PlantedCuda


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def plant(monkeypatch: pytest.MonkeyPatch, *working: str) -> None:
    """Openers of which only the named ones work."""

    def opener(name: str) -> choose_module.Opener:
        def open_it(bundle: Bundle, timings: Timings) -> FakeBackend:
            if name not in working:
                raise BackendError(f"no {name} today")
            backend = FakeBackend.for_manifest(bundle.manifest)
            backend.name = name
            return backend

        return open_it

    openers = {name: opener(name) for name in ORDER}
    monkeypatch.setattr(choose_module, "_openers", lambda: openers)


def test_the_fastest_that_opens_is_taken(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "tensorrt", "cuda", "cpu")
    assert choose(bundle).backend.name == "tensorrt"
    plant(monkeypatch, "cuda", "cpu")
    choice = choose(bundle)
    assert (choice.backend.name, choice.reasons) == ("cuda", ("tensorrt: no tensorrt today",))
    plant(monkeypatch, "cpu")
    reasons = ("tensorrt: no tensorrt today", "cuda: no cuda today")
    assert choose(bundle).reasons == reasons
    plant(monkeypatch)
    with pytest.raises(BackendError, match=r"no backend can run: tensorrt: .*; cuda: .*; cpu: "):
        choose(bundle)


def test_what_a_library_raises_is_a_reason_and_the_next_is_taken(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "cpu")
    openers = dict(choose_module._openers())

    def broken(bundle: Bundle, timings: Timings) -> FakeBackend:
        raise AttributeError("no such\nattribute")

    openers["tensorrt"] = broken
    monkeypatch.setattr(choose_module, "_openers", lambda: openers)
    monkeypatch.setenv("SAMIHS_DEBUG", "0")
    choice = choose(bundle)
    assert choice.backend.name == "cpu"
    assert choice.reasons[0] == (
        "tensorrt: internal error: AttributeError: no such attribute (--debug shows where)"
    )
    monkeypatch.setenv("SAMIHS_DEBUG", "1")
    with pytest.raises(AttributeError):
        choose(bundle)


@pytest.mark.parametrize("name", ORDER)
def test_a_forced_backend_is_never_replaced(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant(monkeypatch, *(set(ORDER) - {name}))
    with pytest.raises(BackendError, match=f"{name} was asked for and cannot run: no {name} today"):
        choose(bundle, name)
    plant(monkeypatch, name)
    assert choose(bundle, name).backend.name == name


def test_an_unknown_backend_is_a_usage_error(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="expected auto, tensorrt, cuda, cpu"):
        choose(bundle, "tpu")


def test_without_a_gpu_the_cpu_serves_and_says_why(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    with Segmenter.from_bundle(tiny_bundle) as segmenter:
        assert segmenter.backend.name == "cpu"
        assert segmenter.reasons == (
            "tensorrt: no NVIDIA GPU can be used: no NVIDIA driver is installed",
            "cuda: no NVIDIA GPU can be used: no NVIDIA driver is installed",
        )


def test_a_wrong_setting_is_the_users_mistake_and_no_internal_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setenv("SAMIHS_THREADS", "abc")
    with pytest.raises(UsageError, match="SAMIHS_THREADS is 'abc'"):
        choose(bundle)


def test_nothing_installed_names_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"cpu: onnxruntime .*pip install 'samihs\[cpu\]'"):
        choose(bundle)


def test_the_cuda_provider_must_be_there(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    with pytest.raises(BackendError, match=r"has no CUDA provider: pip uninstall onnxruntime"):
        choose(bundle, "cuda")


def test_a_provider_that_falls_back_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime goes on with the CPU when CUDA's libraries are missing; we do not."""
    with_gpu(monkeypatch)
    real = onnx_runtime.import_onnxruntime("cpu")
    planted = SimpleNamespace(
        __version__="1.99",
        SessionOptions=real.SessionOptions,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=lambda path, sess_options, providers, **kwargs: real.InferenceSession(
            path, sess_options=sess_options, providers=["CPUExecutionProvider"], **kwargs
        ),
    )
    monkeypatch.setattr(onnx_cuda, "open_device", lambda: Device(PlantedCuda()))
    monkeypatch.setitem(sys.modules, "onnxruntime", planted)
    with pytest.raises(BackendError, match="fell back to CPUExecutionProvider"):
        choose(bundle, "cuda")


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35", BackendError, "see samihs-doctor"),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : x", BundleError, "export the bundle again"),
    ],
)
def test_a_provider_that_cannot_start_is_no_fault_of_the_bundle(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    kind: type[Exception],
    words: str,
) -> None:
    with_gpu(monkeypatch)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError(message)

    planted = SimpleNamespace(
        __version__="1.99",
        SessionOptions=onnx_runtime.import_onnxruntime("cpu").SessionOptions,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=fail,
    )
    monkeypatch.setattr(onnx_cuda, "open_device", lambda: Device(PlantedCuda()))
    monkeypatch.setitem(sys.modules, "onnxruntime", planted)
    with pytest.raises(kind, match=words):
        choose(bundle, "cuda")


def test_a_half_installed_onnxruntime_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(BackendError, match=r"installed in part: .*pip install 'samihs\[cpu\]'"):
        choose(bundle, "cpu")


class PlantedDriver:
    """libcuda's few calls, with a GPU or with an error."""

    def __init__(self, status: int = 0, count: int = 1) -> None:
        self.status = status
        self.count = count

    def cuDriverGetVersion(self, out: object) -> int:
        out._obj.value = 13020  # type: ignore[attr-defined]
        return 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, out: object) -> int:
        out._obj.value = self.count  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, out: object, index: int) -> int:
        return 0

    def cuDeviceGetName(self, buffer: object, size: int, device: object) -> int:
        buffer.value = b"Planted"  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, out: object, device: object) -> int:
        out._obj.value = 24 << 30  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, out: object, attribute: int, device: object) -> int:
        out._obj.value = {75: 8, 76: 9}[attribute]  # type: ignore[attr-defined]
        return 0


def test_the_driver_is_asked_itself() -> None:
    probe = _probe(PlantedDriver)
    assert probe.cuda == (13, 2)
    gpu = probe.devices[0]
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == ("Planted", "8.9", 24 << 30)
    assert "CUDA_VISIBLE_DEVICES" in _probe(lambda: PlantedDriver(status=100)).reason
    assert "cuInit gives 803" in _probe(lambda: PlantedDriver(status=803)).reason
    assert _probe(lambda: PlantedDriver(count=0)).devices == ()


def test_no_driver_is_an_answer() -> None:
    def missing() -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert _probe(missing) == GpuProbe((), None, "no NVIDIA driver is installed")


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_as(monkeypatch, GpuProbe((), None, "no NVIDIA driver is installed"))


def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_as(monkeypatch, GPU)


def probe_as(monkeypatch: pytest.MonkeyPatch, probe: GpuProbe) -> None:
    from samihs_runtime.backends import tensorrt

    monkeypatch.setattr(onnx_cuda, "probe_gpus", lambda: probe)
    monkeypatch.setattr(tensorrt, "probe_gpus", lambda: probe)
