"""Which engines the TensorRT backend takes, and what it says of the others."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from samihs_runtime.backends import choose as choose_module
from samihs_runtime.backends import sidecar as sidecar_module
from samihs_runtime.backends import tensorrt as tensorrt_backend
from samihs_runtime.backends.cuda import Device
from samihs_runtime.backends.engine_loading import deserialise
from samihs_runtime.backends.tensorrt import open_tensorrt
from samihs_runtime.backends.tensorrt_engines import (
    find_engines,
    import_flavour,
    mend_command,
    refusal_of,
)
from samihs_runtime.bundle import (
    AdapterSet,
    Bundle,
    GraphEntry,
    WindowRule,
    sha256_of,
    write_bundle,
)
from samihs_runtime.bundle.entries import AdapterTensors
from samihs_runtime.bundle.graph_identity import graph_sha256
from samihs_runtime.environment import INSTALL
from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import GPU, PlantedCuda
from tests.runtime.planted_tensorrt import PlantedTensorRT, plant_engines
from tests.runtime.tiny_model import manifest

GPU_PRESENT = Path("/dev/nvidia0").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capability": ("9.0",)}, "built for compute capability 9.0, this GPU has 8.9"),
        ({"version": "1.6.0"}, "built by tensorrt_rtx 1.6.0, 1.7.1 is installed"),
        ({"flavour": "tensorrt"}, "tensorrt is not installed: pip install"),
        ({"onnx_sha256": "0" * 64}, "built from another graph than this bundle's"),
        ({"engine_sha256": "0" * 64}, "the engine file is missing, truncated or changed"),
        ({"precision": "fp16"}, "its precision is fp16, only fp32 can be used"),
        ({"part": "sideways"}, "part is 'sideways', expected encoder or decoder"),
        ({"profiles": ()}, "names no optimization profile"),
        (
            {"profiles": ({"hu": ((1,), (1,), (2,))},)},
            "a profile has the inputs hu, expected hu, w",
        ),
    ],
)
def test_engines_that_do_not_fit_are_refused_with_what_mends_it(
    with_engines: Bundle, trt: PlantedTensorRT, changes: dict[str, object], message: str
) -> None:
    plant_engines(with_engines, **changes)
    with pytest.raises(BackendError, match=message) as caught:
        open_tensorrt(with_engines, Timings())
    assert f"samihs-export engines {with_engines.root}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"flags": ("version_compatible",), "version": "1.6.0"}, True),
        ({"flags": ("version_compatible",), "version": "1.10.0"}, False),  # built by a later one
        ({"flags": ("version_compatible",), "version": "0.9.0"}, False),  # of another major
        ({"flags": ("ampere_plus",), "compute_capability": ("8.0",)}, True),
        ({"flags": ("same_compute_capability",), "compute_capability": ("8.0",)}, False),
        ({"flags": ("ampere_plus",), "version": "1.6.0"}, False),
    ],
)
def test_a_compatible_engine_serves_where_its_flags_say(
    with_engines: Bundle,
    trt: PlantedTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    fits: bool,
) -> None:
    plant_engines(with_engines, **changes)
    runtimes = []
    make = trt.Runtime

    def kept(logger: object) -> object:
        runtimes.append(make(logger))
        return runtimes[-1]

    monkeypatch.setattr(trt, "Runtime", kept)
    if not fits:
        with pytest.raises(BackendError, match="built "):
            open_tensorrt(with_engines, Timings())
        return
    with open_tensorrt(with_engines, Timings()):
        pass
    allowed = [getattr(each, "engine_host_code_allowed", False) for each in runtimes]
    assert allowed == [changes["flags"] == ("version_compatible",)] * 2


def test_an_engine_of_other_weights_beside_the_same_graph_is_refused(
    bundle: Bundle, trt: PlantedTensorRT, tmp_path: Path
) -> None:
    """As ViT-H has it in float32: the ``.onnx`` names its weights by file and place alone."""
    hashes = []
    for weights in (b"these", b"others"):
        (bundle.root / "onnx/encoder.onnx.data").write_bytes(weights)
        bundle = write_bundle(bundle.root, bundle.manifest, bundle.root)
        hashes.append(graph_sha256(bundle.manifest, "onnx/encoder.onnx"))
    for onnx_sha256 in (hashes[0], sha256_of(bundle.root / "onnx/encoder.onnx")):
        plant_engines(bundle, onnx_sha256=onnx_sha256)
        with pytest.raises(BackendError, match="encoder: built from another graph"):
            open_tensorrt(bundle, Timings())
    plant_engines(bundle, onnx_sha256=hashes[1])
    assert (
        refusal_of(bundle, bundle.engines / "encoder.json", "tensorrt_rtx", "1.7.1", "8.9")[1]
        is None
    )


FILES = ("onnx/encoder.onnx", "onnx/decoder.onnx")
NORTH = AdapterSet(
    name="north",
    base_sha256="0" * 64,
    training_data="none",
    window=WindowRule("fixed", 0.0, 100.0),
    score_threshold=0.5,
    tensors=tuple(
        AdapterTensors(*kind, "north.safetensors") for kind in (("onnx", "fp32"), ("trt", "fp16"))
    ),
    reference="reference.npz",
)


def with_trt(bundle: Bundle, *precisions: str, adapters: AdapterSet | None = None) -> Bundle:
    """The bundle with an fp32 graph for ONNX Runtime, and for TensorRT those of the precisions."""
    kinds = [("onnx", "fp32"), *(("trt", each) for each in precisions)]
    graphs = tuple(GraphEntry(*kind, *FILES) for kind in kinds)
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs)
    return dataclasses.replace(bundle, manifest=manifest, adapters=adapters)


def advised(bundle: Bundle) -> list[str]:
    """What an error about missing engines ends in, as a shell splits it."""
    with pytest.raises(BackendError, match="holds no TensorRT engines; fix: ") as caught:
        find_engines(bundle, "8.9")
    said = str(caught.value).partition("; fix: ")[2]
    assert said == mend_command(bundle)
    return shlex.split(said)


def test_the_mend_is_for_the_precision_that_was_asked_for(bundle: Bundle) -> None:
    both = with_trt(bundle, "int8", "fp16")
    assert advised(both) == ["samihs-export", "engines", str(bundle.root)]
    command = advised(both.with_precision("fp16"))
    assert command == ["samihs-export", "engines", str(bundle.root), "--precision", "fp16"]
    assert both.graph("trt", command[-1])


def test_the_mend_is_no_command_that_the_bundle_has_no_graphs_for(bundle: Bundle) -> None:
    """They have to be exported first."""
    for opened, wanted in (
        (with_trt(bundle, "fp16").with_precision("fp32"), "fp32"),
        (with_trt(bundle), "fp16"),
    ):
        with pytest.raises(BundleError, match="has no trt"):
            opened.graph("trt", wanted)
        words = ["export", "the", "bundle", "with", "--precision", f"{wanted},", "then"]
        command = ["samihs-export", "engines", str(bundle.root), "--precision", wanted]
        assert advised(opened) == words + command


@pytest.mark.parametrize("chosen", [None, "fp16", "int8"])
def test_the_mend_for_adapters_names_a_precision_that_takes_them(
    bundle: Bundle, chosen: str | None
) -> None:
    """Without one, engines of the first graphs would be built: of 8 bits, which take none."""
    both = with_trt(bundle, "int8", "fp16", adapters=NORTH)
    said = advised(both.with_precision(chosen))
    *first, _, _, root, _, precision, last = said
    assert (root, precision, last) == (str(bundle.root), "fp16", "--refittable")
    assert both.graph("trt", precision)
    assert both.adapter_tensors("trt", precision)
    # Asked for int8 again, it would take none of these engines.
    assert first[:3] == (["take", "--precision", "fp16"] if chosen == "int8" else [])


def test_the_mend_for_adapters_that_fit_no_graph_exports_first(bundle: Bundle) -> None:
    alone = dataclasses.replace(
        NORTH, tensors=(AdapterTensors("onnx", "fp32", "fp32.safetensors"),)
    )
    said = " ".join(advised(with_trt(bundle, "int8", adapters=alone)))
    assert said.startswith(
        "export the bundle with --precision fp16, add adapters north again, then samihs-export "
    )
    assert said.endswith("--precision fp16 --refittable")


def test_the_mend_can_be_pasted_into_a_shell(bundle: Bundle) -> None:
    spaced = dataclasses.replace(with_trt(bundle, "fp16"), root=Path("/data/my bundle; ls"))
    assert advised(spaced) == ["samihs-export", "engines", "/data/my bundle; ls"]


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("state", ["not installed", "without the libraries", "a stub"])
def test_what_installs_tensorrt_is_said_alike_everywhere(
    monkeypatch: pytest.MonkeyPatch, flavour: str, state: str
) -> None:
    def broken(name: str) -> object:
        raise ImportError("libnvinfer.so")

    spec = None if state == "not installed" else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    stub = broken if state == "without the libraries" else lambda name: object()
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", stub)
        with pytest.raises(BackendError, match=state) as caught:
            import_flavour(flavour)
    assert str(caught.value).endswith(f": {INSTALL[flavour]}")
    assert ("https://pypi.nvidia.com" in INSTALL[flavour]) == (flavour == "tensorrt")


def truncate(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_engine_is_never_deserialised(
    with_engines: Bundle, trt: PlantedTensorRT, damage: Callable[[Path], None]
) -> None:
    damage(with_engines.engines / "decoder.engine")
    trt._deserialize = lambda content: pytest.fail("it was deserialised")
    with pytest.raises(BackendError, match="decoder: the engine file is missing, truncated"):
        open_tensorrt(with_engines, Timings())


def test_an_engine_on_a_failing_disk_is_a_reason_and_auto_goes_on(
    with_engines: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(sidecar_module, "sha256_of", failing)
    monkeypatch.setattr(choose_module, "ORDER", ("tensorrt", "fake"))
    choice = choose_module.choose(with_engines)
    assert choice.backend.name == "fake"
    assert "encoder: the engine file cannot be read (Input/output error)" in choice.reasons[0]


def test_a_locked_folder_of_engines_is_a_reason(
    with_engines: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", locked)
    with pytest.raises(BackendError, match=r"cannot read .*engines: Permission denied"):
        open_tensorrt(with_engines, Timings())


def test_a_sidecar_that_is_no_json_is_named(with_engines: Bundle, trt: PlantedTensorRT) -> None:
    (with_engines.engines / "encoder.json").write_text("{")
    with pytest.raises(BackendError, match=r"sidecar .*encoder.json cannot be used"):
        open_tensorrt(with_engines, Timings())


def test_no_engines_and_no_gpu(
    tiny_bundle: Path, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(tiny_bundle)
    with pytest.raises(BackendError, match="holds no TensorRT engines; fix: "):
        open_tensorrt(opened, Timings())
    monkeypatch.undo()
    probe = type(GPU)((), None, "no NVIDIA driver is installed")
    monkeypatch.setattr(tensorrt_backend, "probe_gpus", lambda: probe)
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used: no NVIDIA driver"):
        open_tensorrt(opened, Timings())


def test_an_engine_that_does_not_load(with_engines: Bundle, trt: PlantedTensorRT) -> None:
    trt._deserialize = lambda content: None
    with pytest.raises(BackendError, match="TensorRT could not load"):
        open_tensorrt(with_engines, Timings())


def test_an_engine_of_another_contract(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    encoder = (with_engines.engines / "encoder.engine").read_bytes()
    plant = trt._deserialize
    trt._deserialize = lambda content: plant(encoder)
    with pytest.raises(BundleError, match=r"decoder .*inputs are hu float32, window float32"):
        open_tensorrt(with_engines, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_the_real_modules_have_what_is_called() -> None:
    """Names drift between releases: hold what the program calls against the installed package."""
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    for owner, names in {
        "ICudaEngine": (
            "create_runtime_config",
            *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
            *("get_tensor_shape", "device_memory_size_v2", "create_execution_context"),
        ),
        "IExecutionContext": (
            *("set_device_memory", "set_optimization_profile_async", "set_input_shape"),
            *("set_tensor_address", "get_tensor_shape", "execute_async_v3"),
            *("is_stream_capturable", "update_device_memory_size_for_shapes"),
        ),
        "IRuntimeConfig": (
            *("set_execution_context_allocation_strategy", "create_runtime_cache"),
            *("set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"),
        ),
        "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
        "IRuntimeCache": ("serialize", "deserialize"),
        "Runtime": ("deserialize_cuda_engine",),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "TensorIOMode": ("INPUT",),
        "Logger": ("ERROR",),
    }.items():
        for name in names:
            assert hasattr(getattr(real, owner), name), f"{owner}.{name}"
    assert np.dtype(real.nptype(real.uint8)).name == "uint8"


def test_engines_that_tensorrt_rtx_builds_are_found(tiny_bundle: Path, tmp_path: Path) -> None:
    """Export's builder and the runtime's search agree on names, hashes, versions and profiles."""
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from samihs_export.engines.tensorrt import build_engines

    files = ("onnx/encoder.onnx", "onnx/decoder.onnx")
    graphs = tuple(GraphEntry(family, "fp32", *files) for family in ("onnx", "trt"))
    bundle = write_bundle(tiny_bundle, manifest(graphs=graphs), tmp_path / "built")
    build_engines(bundle, bundle.engines, ("sm89", "sm120"), flavour="tensorrt_rtx")
    for capability in ("8.9", "12.0"):
        pair, module = find_engines(bundle, capability)
        assert module is real
        assert pair.encoder_sidecar.compute_capability == (capability,)
        assert pair.decoder.read_bytes()[:4] == pair.encoder.read_bytes()[:4]  # both are plans
    with pytest.raises(BackendError, match=r"built for compute capability 8.9, this GPU has 8.6"):
        find_engines(bundle, "8.6")
    if not GPU_PRESENT:
        pair, _ = find_engines(bundle, "8.9")
        with pytest.raises(BackendError, match="TensorRT could not load"):
            deserialise(real, Device(PlantedCuda()), pair.encoder, pair.encoder_sidecar)


def test_cuda_python_reports_a_missing_driver_in_words() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if GPU_PRESENT:
        pytest.skip("this machine has a GPU")
    from samihs_runtime.backends.cuda_python import CudaPythonApi

    with pytest.raises(BackendError, match="could not start CUDA: cudaError"):
        CudaPythonApi()
