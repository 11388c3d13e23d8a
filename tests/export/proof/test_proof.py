"""Gates by precision, random weights against float64, and the place where two graphs differ."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from samihs_export.float_types import Precision
from samihs_export.graphs import families as graph_families
from samihs_export.graphs import precision as precisions
from samihs_export.graphs.families import families, write_graphs
from samihs_export.merge import merge
from samihs_export.proof import cpu_session, layers
from samihs_export.proof.cases import phantom_cases
from samihs_export.proof.export_proof import Proof
from samihs_export.proof.gates import GATES, MOST_RANDOM_ERROR, OwnError, gates_for
from samihs_export.proof.layers import Parting, first_parting
from samihs_runtime.bundle import GraphEntry, WindowRule
from samihs_runtime.errors import ExportError, ParityError
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel
from tests.export.conftest import SLICE, TINY, TINY_PYRAMID, adapted_model


@pytest.fixture(scope="module")
def model() -> SamihsModel:
    return adapted_model(PRConfig(rank=8))


@pytest.fixture(scope="module")
def proof(model: SamihsModel) -> Proof:
    window = WindowRule("fixed", -20.0, 100.0)
    cases = phantom_cases(4, slice_size=SLICE, mask_size=TINY.mask_size, window=window)
    return Proof.of(model, cases, trained=False)


@pytest.fixture(scope="module")
def written(
    model: SamihsModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, GraphEntry]:
    """ONNX Runtime's float32 pair; tests that break it use a copy."""
    folder = tmp_path_factory.mktemp("written")
    return folder, write_graphs(folder, merge(model)[0], "onnx", "fp32", SLICE, no_ranges)


@pytest.fixture
def pair(written: tuple[Path, GraphEntry], tmp_path: Path) -> tuple[Path, GraphEntry]:
    """A copy of it."""
    return Path(shutil.copytree(written[0], tmp_path / "pair")), written[1]


def no_ranges() -> dict[str, Any]:
    raise AssertionError("nothing to calibrate here")


def changed(path: Path, name: str, change: Any) -> None:
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    onnx.save(model, path)


def test_limits_for_trained_weights() -> None:
    for precision in ("fp16", "bf16"):
        gates = gates_for(precision)
        assert (gates.mask_iou_mean, gates.volume_relative) == (0.995, 0.01)
    for precision in ("int8", "fp8"):
        gates = gates_for(precision)
        assert (gates.mask_iou_mean, gates.volume_relative) == (0.98, 0.02)
    assert all(each.score_difference is not None for each in GATES.values())


def test_float32s_own_error_is_that_of_rounding(proof: Proof) -> None:
    assert proof.own is not None
    assert 2**-24 < proof.own.embedding < 1e-5
    assert 2**-24 < proof.own.logits < 1e-4
    assert proof.reference[0].logits.dtype == np.float64


def test_the_reference_of_a_pyramid_is_float64_throughout() -> None:
    """Its decoder widens half precision to float32 on the way, which must not narrow float64."""
    pyramid = adapted_model(PRConfig(rank=8), config=TINY_PYRAMID)
    window, size = WindowRule("fixed", -20.0, 100.0), TINY_PYRAMID.mask_size
    cases = phantom_cases(4, slice_size=SLICE, mask_size=size, window=window)
    proof = Proof.of(pyramid, cases, trained=False)
    assert proof.own is not None
    assert 2**-24 < proof.own.logits < 1e-4
    assert {each.logits.dtype for each in proof.reference} == {np.dtype(np.float64)}


def test_random_limits_follow_float32s_own_error_and_roundoff() -> None:
    own = OwnError(embedding=1e-6, logits=2e-6)
    single, half = own.gates("fp32"), own.gates("fp16")
    assert single.embedding_relative == pytest.approx(1e-5)
    assert single.logits_relative == pytest.approx(2e-5)
    assert half.embedding_relative == pytest.approx(1e-5 * 2**13)
    assert half.mask_iou_mean is None
    assert own.gates("fp8").embedding_relative == MOST_RANDOM_ERROR


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graphs_of_random_weights_pass(
    model: SamihsModel, proof: Proof, tmp_path: Path, precision: Precision
) -> None:
    merged = merge(model)[0]
    proof.prove_merge(merged)
    entry = write_graphs(tmp_path, merged, "trt", precision, SLICE, no_ranges)
    result = proof.prove_graph(tmp_path, entry, merged)
    assert result.embedding_relative is not None
    assert result.embedding_relative <= proof.gates(precision).embedding_relative
    # The file is what is checked, also in bfloat16, where torch answers.
    changed(tmp_path / entry.encoder, "blocks.1.mlp.lin1.bias", lambda values: values + 4)
    with pytest.raises(ParityError, match=f"trt {precision} in .* does not agree"):
        proof.prove_graph(tmp_path, entry, merged)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("patch_embed.proj.bias", "between patch_embed.proj and blocks.0.norm1 "),
        ("blocks.0.attention.qkv.bias", "between blocks.0.attention.qkv and blocks.0.attention.p"),
        ("blocks.1.mlp.lin1.bias", "between blocks.1.mlp.lin1 and blocks.1.mlp.lin2 "),
    ],
)
def test_a_fault_in_the_encoder_is_located(
    model: SamihsModel, proof: Proof, pair: tuple[Path, GraphEntry], name: str, place: str
) -> None:
    folder, entry = pair
    changed(folder / entry.encoder, name, lambda values: values + 1)
    with pytest.raises(ParityError, match=place):
        proof.prove_graph(folder, entry, merge(model)[0])


def test_a_fault_in_the_decoder_is_located(
    model: SamihsModel, proof: Proof, pair: tuple[Path, GraphEntry]
) -> None:
    folder, entry = pair
    name = "transformer.layers.0.mlp.lin1.bias"
    changed(folder / entry.decoder, name, lambda values: values + 1)
    place = r"between transformer.layers.0.mlp.lin1 and transformer.layers.0.mlp.lin2 "
    with pytest.raises(ParityError, match=place):
        proof.prove_graph(folder, entry, merge(model)[0])


@pytest.mark.parametrize(
    ("name", "rows", "case", "place"),
    [
        (
            "mask_downscaling.0.bias",
            0,
            r"3 \(a click with a prior\)",
            "between mask_downscaling.0 and mask_downscaling.3 ",
        ),
        ("points.kinds", slice(3, 5), r"2 \(a box\)", "and transformer.layers.0.self_attn.q_proj "),
        ("points.kinds", 1, r"1 \(two clicks\)", "and transformer.layers.0.self_attn.q_proj "),
    ],
    ids=["prior", "box", "background"],
)
def test_a_fault_that_only_some_prompts_exercise_is_located(
    model: SamihsModel,
    proof: Proof,
    pair: tuple[Path, GraphEntry],
    name: str,
    rows: Any,
    case: str,
    place: str,
) -> None:
    """A plain click without a prior, the first case, reveals none of these."""

    def more(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[rows] += 1
        return values

    folder, entry = pair
    changed(folder / entry.decoder, name, more)
    with pytest.raises(ParityError, match=f"on case {case}.*{place}"):
        proof.prove_graph(folder, entry, merge(model)[0])


def test_a_wrong_pad_order_in_a_graph_fails_its_gate(tmp_path: Path) -> None:
    """The authors' order, written as if pad tokens were not normalised."""
    adapted = adapted_model(PRConfig(rank=8, pad_before_norm=True))
    window = WindowRule("fixed", -20.0, 100.0)
    cases = phantom_cases(2, slice_size=SLICE, mask_size=TINY.mask_size, window=window)
    proof = Proof.of(adapted, cases, trained=False)
    merged = merge(adapted)[0]
    wrong = merge(adapted)[0]
    block = wrong.sam.image_encoder.blocks[0]
    block.norm1, block.attn = block.attn
    entry = write_graphs(tmp_path, wrong, "onnx", "fp32", SLICE, no_ranges)
    with pytest.raises(ParityError, match=r"onnx fp32.*blocks\.0\.attention"):
        proof.prove_graph(tmp_path, entry, merged)


def test_layer_norm_in_fp16_is_refused(
    model: SamihsModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime computes it in float32 on the CPU anyway, so no numeric gate would notice."""

    class InFloat16(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.weight, self.bias = module.weight, module.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            centred = x - x.mean(-1, keepdim=True)
            variance = centred.square().mean(-1, keepdim=True)
            normed = centred * torch.rsqrt(variance + 1e-6)
            return normed * self.weight.half() + self.bias.half()

    def in_float16(module: torch.nn.Module) -> torch.nn.Module:
        return InFloat16(module) if isinstance(module, torch.nn.LayerNorm) else original(module)

    original = precisions.InFloat32
    monkeypatch.setattr(precisions, "InFloat32", in_float16)
    with pytest.raises(ExportError, match=r"another type than float32.*blocks\.0\.norm1"):
        write_graphs(tmp_path, merge(model)[0], "trt", "fp16", SLICE, no_ranges)


def test_the_first_difference_is_found() -> None:
    same = {"a": np.ones(4), "b": np.ones(4), "c": np.ones(4)}
    other = {"a": np.ones(4), "b": np.full(4, 1.5), "c": np.full(4, np.nan)}
    assert first_parting(same, same, 1e-6) is None
    assert first_parting(same, other, 1e-6) == Parting("b", "a", 0.5)
    parting = first_parting(same, other, 0.6)
    assert parting is not None
    assert (parting.layer, parting.before) == ("c", "b")


def test_families() -> None:
    assert families(("fp16",)) == [("onnx", "fp32"), ("trt", "fp16")]
    assert families(("int8", "fp8")) == [
        ("onnx", "fp32"),
        ("onnx", "int8"),
        ("trt", "int8"),
        ("trt", "fp8"),
    ]
    with pytest.raises(ExportError, match="name each once"):
        families(("fp16", "fp16"))


def test_quantized_encoders_share_the_half_precision_decoder(
    model: SamihsModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        written.append(path.relative_to(tmp_path).as_posix())

    monkeypatch.setattr(graph_families, "export_encoder", lambda g, size, path, opset: write(path))
    monkeypatch.setattr(graph_families, "export_decoder", lambda g, c, path, opset: write(path))
    monkeypatch.setattr(graph_families, "_write_quantized", lambda *given: write(given[4]))
    monkeypatch.setattr(graph_families, "check_types", lambda path, kind: None)
    merged = merge(model)[0]
    half, eighth = (
        write_graphs(tmp_path, merged, "trt", each, SLICE, no_ranges) for each in ("fp16", "fp8")
    )
    assert eighth == GraphEntry("trt", "fp8", "trt/fp8/encoder.onnx", "trt/fp16/decoder.onnx")
    assert half.decoder == eighth.decoder
    assert written == ["trt/fp16/encoder.onnx", half.decoder, "trt/fp8/encoder.onnx"]


def test_layers_are_compared_in_a_graph_too_large_to_pass_in_memory(
    model: SamihsModel,
    proof: Proof,
    pair: tuple[Path, GraphEntry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Protobuf's limit is 2 GB: this stand-in accepts only files."""
    original = cpu_session.import_onnxruntime("cpu")

    def session(graph: str, *options: Any, **providers: Any) -> Any:
        assert Path(graph).stat().st_size < sum(each.nbytes for each in weights)
        return original.InferenceSession(graph, *options, **providers)

    folder, entry = pair
    stored = onnx.load(folder / entry.encoder).graph.initializer
    weights = [numpy_helper.to_array(each) for each in stored]
    kinds = SimpleNamespace(SessionOptions=original.SessionOptions, InferenceSession=session)
    monkeypatch.setattr(cpu_session, "import_onnxruntime", lambda name: kinds)
    seen = layers.inputs_of_onnx(folder / entry.encoder, proof.cases[0].slice_feeds())
    assert "blocks.1.mlp.lin2" in seen
