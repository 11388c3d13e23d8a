"""Real engines, built without a GPU; if one cannot be built, the reason is given."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from samihs_export.engines import tensorrt
from samihs_export.engines.build_options import BuildOptions, ProfileSizes
from samihs_export.engines.readback import (
    Layer,
    attention_layers,
    check_layers,
    layer_kinds,
    layers_of,
)
from samihs_export.engines.tensorrt import (
    RECORDS,
    TARGETS,
    build_engines,
    choose_flavour,
    parse_targets,
)
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.onnx import export_encoder
from samihs_export.graphs.precision import to_precision
from samihs_export.merge import merge
from samihs_runtime.backends import sidecar
from samihs_runtime.backends.probe import Gpu, GpuProbe, probe_gpus
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.bundle import GraphEntry, sha256_of, write_bundle
from samihs_runtime.environment import RTX_CAPABILITIES
from samihs_runtime.errors import BackendError, ExportError, OutputError
from tests.export.conftest import SLICE, TINY, Exported

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")


def test_engines_are_built_and_described(exported: Exported, tmp_path: Path) -> None:
    bundle = exported.bundle
    built = build_engines(bundle, tmp_path, ["sm89"], flavour="tensorrt_rtx")
    assert [each.sidecar.part for each in built] == ["encoder", "decoder"]
    assert [each.attention_layers for each in built] == [TINY.depth, 0]
    for each in built:
        written = EngineSidecar.read(each.path.with_suffix(".json"))
        source = getattr(bundle.graph("trt", "fp16"), written.part)
        assert written.onnx_sha256 == sha256_of(source)
        assert written.precision == "fp16"
        assert written.flags == ()
        assert written.build_seconds == pytest.approx(each.build_seconds, abs=0.01)
        fits = (sha256_of(source), "tensorrt_rtx", trt.__version__)
        assert written.mismatch(each.path, *fits, "8.9") is None
        assert written.mismatch(each.path, *fits, "8.0") is not None
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


def test_a_gpu_that_would_refuse_its_engines_gets_none(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX builds engines on Hopper nevertheless, but does not load them there."""
    hopper = Gpu(0, "NVIDIA H200", "9.0", 150 << 30)
    monkeypatch.setattr(tensorrt, "probe_gpus", lambda: GpuProbe((hopper,), (13, 0), ""))
    with pytest.raises(ExportError, match=r"no engine on this GPU.*9\.0.*--backend cuda"):
        build_engines(exported.bundle, tmp_path, (None,), flavour="tensorrt_rtx")
    assert not list(tmp_path.iterdir())


def test_engines_folder_that_cannot_be_made(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        build_engines(exported.bundle, tmp_path / "file" / "in", ["sm89"], flavour="tensorrt_rtx")


def test_targets() -> None:
    assert parse_targets("sm89, SM120,sm89") == ("sm89", "sm120")
    with pytest.raises(ExportError, match=r"'sm90'.*sm80"):
        parse_targets("sm80,sm90")


def test_the_targets_are_what_the_runtime_says_tensorrt_rtx_builds_for() -> None:
    assert tuple(TARGETS.values()) == RTX_CAPABILITIES
    known = trt.ComputeCapability.__members__
    assert {name.lower() for name in known if name.startswith("SM")} == set(TARGETS)


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


@pytest.fixture(scope="module")
def parse() -> Callable[[Path], list[Layer]]:
    def layers(path: Path) -> list[Layer]:
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        assert parser.parse_from_file(str(path))
        return layers_of(network)

    return layers


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_parsed_networks_are_what_was_asked_for(
    exported: Exported, parse: Callable[[Path], list[Layer]], precision: str
) -> None:
    files = exported.bundle.graph("trt", precision)
    layers = parse(files.encoder)
    check_layers(layers, precision, "encoder")
    check_layers(parse(files.decoder), "fp16", "decoder")
    assert attention_layers(layers) == TINY.depth
    quantized = {"int8": "QUANTIZE INT8", "fp8": "QUANTIZE FP8"}.get(precision, "none")
    assert layer_kinds(layers).get(quantized, 0) == (0 if precision == "fp16" else 4 * TINY.depth)


@pytest.mark.parametrize(
    ("graph", "asked", "words"),
    [
        ("fp16", "bf16", "another type"),
        ("fp16", "int8", r"not quantized: blocks\.0\.attention\.qkv"),
        ("int8", "fp8", r"not quantized: blocks\.0\.attention\.qkv"),
    ],
)
def test_a_precision_other_than_requested_is_named(
    exported: Exported,
    parse: Callable[[Path], list[Layer]],
    graph: str,
    asked: str,
    words: str,
) -> None:
    layers = parse(exported.bundle.graph("trt", graph).encoder)
    with pytest.raises(ExportError, match=words):
        check_layers(layers, asked, "encoder.onnx")


def test_attention_that_is_split_up_is_named(
    exported: Exported, parse: Callable[[Path], list[Layer]], tmp_path: Path
) -> None:
    graph = to_precision(EncoderGraph(merge(exported.model)[0], "bias"), "fp16")
    export_encoder(graph, SLICE, tmp_path / "encoder.onnx")
    with pytest.raises(ExportError, match=r"taken apart in blocks\.0\.attention, blocks\.1"):
        check_layers(parse(tmp_path / "encoder.onnx"), "fp16", "encoder.onnx")


def test_a_norm_in_half_precision_is_named() -> None:
    layers = [Layer("blocks.0.norm1/LayerNormalization", "NORMALIZATION", "HALF")]
    with pytest.raises(ExportError, match=r"norms and softmax.*blocks\.0\.norm1"):
        check_layers(layers, "fp16", "encoder.onnx")


class Config:
    """The part of ``tensorrt``'s builder configuration that a timing cache needs."""

    cache = b""
    takes = True

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return self.takes

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.cache + b"timed ")


DATACENTER = SimpleNamespace(__name__="tensorrt", __version__="0")


def test_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    options = BuildOptions(timing_cache=tmp_path / "cache" / "timings")
    for count in (1, 2):
        config = Config()
        options.apply(DATACENTER, config)
        options.keep_timings(config)
        assert options.timing_cache is not None
        assert options.timing_cache.read_bytes() == b"timed " * count
    assert [each.name for each in options.timing_cache.parent.iterdir()] == ["timings"]
    config.takes = False
    with pytest.raises(ExportError, match="refuses the timing cache"):
        options.apply(DATACENTER, config)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="timing cache"):
        BuildOptions(timing_cache=tmp_path / "file" / "x").keep_timings(Config())


def test_the_build_record_holds_what_was_read_back(exported: Exported, tmp_path: Path) -> None:
    built = build_engines(exported.bundle, tmp_path, ["sm89"], flavour="tensorrt_rtx")
    for each in built:
        record = json.loads((tmp_path / RECORDS / f"{each.path.stem}.json").read_text())
        assert record["flags"] == []
        assert record["layers"] == dict(each.layer_kinds)
        assert record["activation_bytes"] == each.activation_bytes


def test_activations_grow_with_the_profiles_largest_batch(
    exported: Exported, tmp_path: Path
) -> None:
    asked = []
    for largest in (1, 8):
        options = BuildOptions(ProfileSizes(encode_batch=(1, 1, largest)))
        out = tmp_path / str(largest)
        encoder, _ = build_engines(exported.bundle, out, ["sm89"], options=options)
        assert encoder.activation_bytes is not None
        asked.append(encoder.activation_bytes)
    assert 0 < asked[0] < asked[1]


def test_every_build_can_be_captured_and_computes_float32_in_float32() -> None:
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32), "the default that is turned off"
    tensorrt._set_always(trt, config)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def test_refittable_engines_say_what_they_need(exported: Exported, tmp_path: Path) -> None:
    options = BuildOptions(refittable=True)
    assert options.flags() == ["refittable"]
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    options.apply(trt, config)
    assert config.get_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    with pytest.raises(ExportError, match="no int8 weights of it can be exchanged"):
        build_engines(exported.bundle, tmp_path, ["sm89"], precision="int8", options=options)
    if not probe_gpus().devices:
        with pytest.raises(ExportError, match="built on a machine with a GPU"):
            build_engines(exported.bundle, tmp_path, ["sm89"], options=options)
        assert not list(tmp_path.iterdir())


SIDECAR = EngineSidecar(
    part="encoder",
    engine_sha256=hashlib.sha256(b"old").hexdigest(),
    onnx_sha256=64 * "0",
    flavour="tensorrt_rtx",
    version="1",
    compute_capability=("8.9",),
    precision="fp16",
    profiles=({"hu": 3 * ((1, 1, 64, 64),), "window": 3 * ((1, 2),)},),
)


def break_off(monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    """Cuts off everything written with ``Path.write_bytes`` after one byte."""
    whole = Path.write_bytes

    def broken_off(path: Path, content: memoryview) -> None:
        whole(path, content[:1])
        raise fault

    monkeypatch.setattr(Path, "write_bytes", broken_off)


def refuse_sidecars(monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    def refused(path: Path, content: str) -> None:
        raise fault

    monkeypatch.setattr(sidecar, "atomic_write", refused)


@pytest.mark.parametrize("fail", [break_off, refuse_sidecars])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_rebuild_that_fails_leaves_the_engine_that_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[pytest.MonkeyPatch, BaseException], None],
    fault: BaseException,
) -> None:
    path = tmp_path / "encoder.engine"
    path.write_bytes(b"old")
    SIDECAR.write(path.with_suffix(".json"))
    new = dataclasses.replace(SIDECAR, engine_sha256=hashlib.sha256(b"new").hexdigest())
    with monkeypatch.context() as patch:
        fail(patch, fault)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            tensorrt._write(path, memoryview(b"new"), new)
    kept = EngineSidecar.read(path.with_suffix(".json"))
    assert kept.mismatch(path, 64 * "0", "tensorrt_rtx", "1", "8.9") is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["encoder.engine", "encoder.json"]
    tensorrt._write(path, memoryview(b"new"), new)
    assert (path.read_bytes(), EngineSidecar.read(path.with_suffix(".json"))) == (b"new", new)


def test_an_interrupted_write_leaves_the_old_timing_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = tmp_path / "timings"
    timings.write_bytes(b"old")
    break_off(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        BuildOptions(timing_cache=timings).keep_timings(Config())
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"timings": b"old"}


def test_the_flavour_is_one_whose_engines_run_on_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "import_flavour", lambda flavour: flavour)
    for capability, here in (("9.0", "tensorrt"), ("8.9", "tensorrt_rtx")):
        gpu = Gpu(0, "a GPU", capability, 80 << 30)
        monkeypatch.setattr(tensorrt, "probe_gpus", lambda gpu=gpu: GpuProbe((gpu,), (13, 0), ""))
        assert choose_flavour("auto", (None,))[0] == here
        assert choose_flavour("auto", ("sm89",))[0] == "tensorrt_rtx"
        assert choose_flavour("tensorrt_rtx", (None,))[0] == "tensorrt_rtx"


def test_options_that_tensorrt_lacks_or_drops_are_errors() -> None:
    with pytest.raises(ExportError, match="unknown hardware compatibility 'pascal'"):
        BuildOptions(hardware_compatible="pascal")
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    options = BuildOptions(version_compatible=True)
    options.apply(trt, config)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert options.flags() == ["version_compatible"]
    with pytest.raises(ExportError, match="has no version_compatible"):
        options.apply(DATACENTER, config)
    with pytest.raises(ExportError, match="ignores hardware compatibility"):
        BuildOptions(hardware_compatible="ampere_plus").apply(trt, config)
    with pytest.raises(ExportError, match="leave --timing-cache out"):
        BuildOptions(timing_cache=Path("timings")).apply(trt, config)
