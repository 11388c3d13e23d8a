"""The written graphs: dynamic, self-contained, identical bytes each time, and nothing local."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.onnx import OPSET, ORT_OPSET, export_encoder
from samihs_export.merge import merge
from samihs_runtime.backends.contract import DECODER, ENCODER
from samihs_runtime.backends.onnx_runtime import EXACT_INT8
from samihs_runtime.bundle import sha256_of
from tests.export.conftest import SLICE, TINY, Exported


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*EXACT_INT8)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", ["onnx", "trt"])
def test_tensors_follow_the_contract(exported: Exported, family: str) -> None:
    files = exported.bundle.graph(family)
    types = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}
    for contract, path in ((ENCODER, files.encoder), (DECODER, files.decoder)):
        made = session(path)
        inputs = {each.name: types[each.type] for each in made.get_inputs()}
        outputs = {each.name: types[each.type] for each in made.get_outputs()}
        contract.check(inputs, outputs, str(path))
        assert list(inputs) == list(contract.inputs)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 2), (3, 2), (2, 5)])
def test_any_batch_and_point_count(exported: Exported, batch: int, count: int) -> None:
    files = exported.bundle.graph("onnx")
    random = np.random.default_rng(batch * 10 + count)
    hu = random.normal(40, 40, (batch, 1, SLICE, SLICE)).astype(np.float32)
    window = np.tile(np.float32([-20, 100]), (batch, 1))
    points = random.uniform(0, SLICE - 1, (batch, count, 2)).astype(np.float32)
    labels = random.integers(-1, 4, (batch, count)).astype(np.int32)
    prior = random.normal(0, 4, (batch, 1, TINY.mask_size, TINY.mask_size)).astype(np.float32)
    embedding = session(files.encoder).run(None, {"hu": hu, "window": window})[0]
    feeds = {"embedding": embedding, "points": points, "labels": labels, "prior": prior}
    feeds["has_prior"] = np.ones(batch, np.float32)
    logits, mask, score = session(files.decoder).run(None, feeds)
    model = exported.model
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(hu), torch.from_numpy(window))
        their_logits, their_scores = model.decode(
            expected,
            torch.from_numpy(points),
            torch.from_numpy(labels),
            torch.from_numpy(prior),
            slice_size=SLICE,
        )
    # Two float32 implementations with different orders of summation, through two networks.
    np.testing.assert_allclose(embedding, expected.numpy(), atol=2e-5)
    np.testing.assert_allclose(logits, their_logits.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(score, their_scores.numpy(), atol=1e-4)
    assert mask.shape == (batch, SLICE, SLICE)
    assert set(np.unique(mask)) <= {0, 1}


def test_same_model_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    export_encoder(EncoderGraph(merge(exported.model)[0]), SLICE, path, ORT_OPSET)
    assert sha256_of(path) == sha256_of(exported.bundle.graph("onnx").encoder)
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.onnx"]  # weights inside


@pytest.mark.parametrize(("family", "opset"), [("onnx", ORT_OPSET), ("trt", OPSET)])
def test_files_contain_nothing_about_the_machine(
    exported: Exported, family: str, opset: int
) -> None:
    files = exported.bundle.graph(family)
    for path in (files.encoder, files.decoder):
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path.home()).encode() not in content
        model = onnx.load(path)
        assert not model.doc_string
        assert not model.metadata_props
        assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
        assert {each.domain: each.version for each in model.opset_import}[""] == opset


def test_half_precision_graph_is_typed_as_planned(exported: Exported) -> None:
    path = exported.bundle.graph("trt", "fp16").encoder
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {each.name: each.type.tensor_type.elem_type for each in model.graph.value_info}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Attention"] == TINY.depth
    assert kinds["Softmax"] == 0
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
        elif node.op_type in ("Attention", "MatMul", "Conv", "Gelu"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16
    decoder = onnx.shape_inference.infer_shapes(onnx.load(path.with_name("decoder.onnx")))
    types = {each.name: each.type.tensor_type.elem_type for each in decoder.graph.value_info}
    softmaxes = [node for node in decoder.graph.node if node.op_type == "Softmax"]
    assert softmaxes
    assert {types[node.output[0]] for node in softmaxes} == {onnx.TensorProto.FLOAT}


def test_no_boolean_assignment(exported: Exported) -> None:
    """TensorRT's parser rejects NonZero and ScatterND."""
    for name in ("onnx", "trt"):
        files = exported.bundle.graph(name)
        for path in (files.encoder, files.decoder):
            kinds = {node.op_type for node in onnx.load(path).graph.node}
            assert not kinds & {"NonZero", "ScatterND", "Loop", "If"}
