"""``samihs-export verify --backend``: which precisions are run, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from safetensors.numpy import save_file

from samihs_export.cli import main
from samihs_export.proof.cases import phantom_cases, save_reference
from samihs_export.proof.parity import answers_of_onnx
from samihs_export.verify import REFERENCE, Verified, verify_bundle
from samihs_runtime.backends.sidecar import REFITTABLE
from samihs_runtime.bundle import AdapterSet, Bundle, GraphEntry, write_bundle
from samihs_runtime.bundle.entries import AdapterTensors
from samihs_runtime.bundle.sets import add_set
from samihs_runtime.errors import BackendError
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_tensorrt import PlantedTensorRT, plant_engines, plant_tensorrt
from tests.runtime.tiny_model import LOW, SIZE, manifest, write_tiny_bundle

EXCHANGED = {"encoder": "one", "decoder": "spread"}
"""A tensor of each graph, which the set below replaces by itself."""
KINDS = (("onnx", "fp32"), ("onnx", "int8"), ("trt", "fp16"), ("trt", "bf16"), ("trt", "int8"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The tiny model, all of whose graphs are one pair of files, with its own answers."""
    plain = write_tiny_bundle(tmp_path, tmp_path / "plain")
    files, window = plain.graph("onnx"), plain.manifest.window
    cases = phantom_cases(2, slice_size=SIZE, mask_size=LOW, window=window)
    answers = answers_of_onnx(files.encoder, files.decoder, cases, 1)
    save_reference(tmp_path / "files" / REFERENCE, cases, answers)
    graphs = tuple(GraphEntry(*kind, "onnx/encoder.onnx", "onnx/decoder.onnx") for kind in KINDS)
    return write_bundle(tmp_path / "files", manifest(graphs=graphs), tmp_path / "bundle")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> PlantedTensorRT:
    return plant_tensorrt(monkeypatch, PlantedCuda())


def plant(bundle: Bundle, precision: str, **changes: Any) -> None:
    """Engines of one precision: the bundle's own graphs under other names."""
    files = bundle.graph("trt", precision)
    plant_engines(bundle, batch=4, files=files, suffix=f".{precision}", **changes)


def ran(verified: Verified, backend: str) -> list[str]:
    """What the backend was asked, such as ``fp16 against torch``."""
    names = [each.name for each in verified.results]
    return [each.removeprefix(f"{backend} ") for each in names if each.startswith(backend)]


def test_engines_of_every_precision_are_run(bundle: Bundle, trt: PlantedTensorRT) -> None:
    for precision in ("fp16", "int8"):
        plant(bundle, precision)
    verified = verify_bundle(bundle.root, "tensorrt")
    assert ran(verified, "tensorrt") == ["fp16 against torch", "int8 against torch"]
    assert verified.not_run == ()


def test_engines_that_onnx_runtime_cannot_check_are_run(
    bundle: Bundle, trt: PlantedTensorRT
) -> None:
    plant(bundle, "bf16")
    verified = verify_bundle(bundle.root, "tensorrt")
    assert not any("bf16 in ONNX Runtime" in each.name for each in verified.results)
    assert ran(verified, "tensorrt") == ["bf16 against torch"]


def test_engines_that_do_not_fit_are_named_as_not_run(bundle: Bundle, trt: PlantedTensorRT) -> None:
    plant(bundle, "fp16")
    plant(bundle, "int8", compute_capability=("12.0",))
    (bundle.engines / "old.json").write_text("{}")
    verified = verify_bundle(bundle.root, "tensorrt")
    assert ran(verified, "tensorrt") == ["fp16 against torch"]
    unread, unfit = verified.not_run
    assert unread.startswith("tensorrt old: engine sidecar")
    assert unfit.startswith("tensorrt int8: no TensorRT engine of ")
    assert "built for compute capability 12.0, this GPU has 8.9" in unfit
    result = CliRunner().invoke(main, ["verify", str(bundle.root), "--backend", "tensorrt"])
    assert result.exit_code == 0, result.output
    assert f"not run: {unfit}" in result.output.splitlines()


def test_no_engines_that_fit_are_an_error(bundle: Bundle, trt: PlantedTensorRT) -> None:
    for precision in ("fp16", "int8"):
        plant(bundle, precision, version="1.6.0")
    with pytest.raises(BackendError, match=r"no TensorRT engine .*fp16: .* 1\.6\.0.*int8: "):
        verify_bundle(bundle.root, "tensorrt")


def test_engines_are_refitted_in_the_precisions_that_take_adapters(
    bundle: Bundle, trt: PlantedTensorRT, tmp_path: Path
) -> None:
    with_north = add_north(bundle, tmp_path)
    trt.marked = tuple(EXCHANGED.values())
    for precision in ("fp16", "int8"):
        plant(with_north, precision, flags=(REFITTABLE,))
    verified = verify_bundle(with_north.root, "tensorrt")
    own = ["fp16 against torch", "int8 against torch"]
    assert ran(verified, "tensorrt") == [*own, "fp16 against torch, adapters north"]
    assert verified.not_run == ()
    plant(with_north, "fp16")
    with pytest.raises(BackendError, match="built without --refittable, which adapters north need"):
        verify_bundle(with_north.root, "tensorrt")


def test_the_cpu_runs_every_precision_of_its_graphs(bundle: Bundle, tmp_path: Path) -> None:
    verified = verify_bundle(add_north(bundle, tmp_path).root, "cpu")
    of_north = "fp32 against torch, adapters north"
    assert ran(verified, "cpu") == ["fp32 against torch", "int8 against torch", of_north]


def add_north(bundle: Bundle, scratch: Path) -> Bundle:
    """With a set whose tensors are the bundle's own, and so are its answers."""
    files = {"adapters/north/reference.npz": bundle.root / REFERENCE}
    made = []
    for family, precision in (("onnx", "fp32"), ("trt", "fp16")):
        graphs = bundle.graph(family, precision)
        tensors = {}
        for part, name in EXCHANGED.items():
            graph = onnx.load(getattr(graphs, part)).graph
            tensor = next(each for each in graph.initializer if each.name == name)
            tensors[f"{part}/{name}"] = numpy_helper.to_array(tensor)
        path = f"adapters/north/{family}.safetensors"
        files[path] = scratch / f"{family}.safetensors"
        save_file(tensors, files[path])
        made.append(AdapterTensors(family, precision, path))
    north = AdapterSet(
        name="north",
        base_sha256="0" * 64,
        training_data="the same",
        window=bundle.manifest.window,
        score_threshold=bundle.manifest.score_threshold,
        tensors=tuple(made),
        reference="adapters/north/reference.npz",
        parity=bundle.manifest.parity,
    )
    return add_set(bundle, north, files)
