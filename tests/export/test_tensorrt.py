"""Real engines, built with no GPU; what cannot be built says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from samihs_export import tensorrt
from samihs_export.tensorrt import TARGETS, build_engines, choose_flavour, parse_targets
from samihs_runtime.backends.probe import GpuProbe
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.bundle import GraphEntry, sha256_of, write_bundle
from samihs_runtime.errors import BackendError, ExportError, OutputError

from .conftest import SLICE, TINY, Exported

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")


def test_engines_are_built_and_described(exported: Exported, tmp_path: Path) -> None:
    bundle = exported.bundle
    built = build_engines(bundle, tmp_path, ["sm89"], flavour="tensorrt_rtx")
    assert [each.sidecar.part for each in built] == ["encoder", "decoder"]
    assert [each.attention_layers for each in built] == [TINY.depth, 0]
    for each in built:
        sidecar = EngineSidecar.read(each.path.with_suffix(".json"))
        source = getattr(bundle.graph("trt", "fp16"), sidecar.part)
        assert sidecar.onnx_sha256 == sha256_of(source)
        assert sidecar.precision == "fp16"
        fits = (sha256_of(source), "tensorrt_rtx", trt.__version__)
        assert sidecar.mismatch(each.path, *fits, "8.9") is None
        assert sidecar.mismatch(each.path, *fits, "8.0") is not None
    profile = built[0].sidecar.profiles[0]
    assert profile["hu"] == ((1, 1, SLICE, SLICE), (1, 1, SLICE, SLICE), (8, 1, SLICE, SLICE))
    assert built[1].sidecar.profiles[0]["points"] == ((1, 1, 2), (1, 2, 2), (16, 32, 2))
    assert not list(tmp_path.glob(".*"))


def test_a_graph_that_is_silently_float32_is_refused(exported: Exported, tmp_path: Path) -> None:
    entry = GraphEntry("trt", "fp16", "onnx/encoder.onnx", "onnx/decoder.onnx")
    manifest = dataclasses.replace(exported.bundle.manifest, graphs=(entry,))
    source = tmp_path / "files"
    (source / "onnx").mkdir(parents=True)
    for name in ("encoder.onnx", "decoder.onnx"):
        (source / "onnx" / name).write_bytes((exported.bundle.root / "onnx" / name).read_bytes())
    lying = write_bundle(source, manifest, tmp_path / "lying")
    with pytest.raises(ExportError, match="fp16 was asked for"):
        build_engines(lying, tmp_path / "engines", ["sm89"], flavour="tensorrt_rtx")
    assert not (tmp_path / "engines").exists()


def test_a_target_that_tensorrt_does_not_know_is_named(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "sm90", "9.0")
    with pytest.raises(ExportError, match=r"knows no target sm90.*sm89"):
        build_engines(exported.bundle, tmp_path, ["sm90"], flavour="tensorrt_rtx")


def test_engines_folder_that_cannot_be_made(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        build_engines(exported.bundle, tmp_path / "file" / "in", ["sm89"], flavour="tensorrt_rtx")


def test_targets() -> None:
    assert parse_targets("sm89, SM120,sm89") == ("sm89", "sm120")
    with pytest.raises(ExportError, match=r"'sm90'.*sm80"):
        parse_targets("sm80,sm90")


def test_no_target_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "probe_gpus", lambda: GpuProbe((), None, "no driver"))
    with pytest.raises(ExportError, match=r"no driver.*--target"):
        parse_targets(None)


def test_no_builder_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(flavour: str) -> None:
        raise BackendError(f"{flavour} is not installed: pip install it")

    monkeypatch.setattr(tensorrt, "import_flavour", missing)
    with pytest.raises(ExportError, match=r"no TensorRT builder.*tensorrt_rtx.*tensorrt is not"):
        choose_flavour()
    with pytest.raises(ExportError, match="no TensorRT flavour 'cuda'"):
        choose_flavour("cuda")
