"""Another site's adapters on the same base: with exchanged tensors, answers are that site's."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from samihs_export.engines.refit import mark_refittable, refittable
from samihs_export.float_types import Precision
from samihs_export.graphs.families import write_graphs
from samihs_export.merge import merge
from samihs_export.proof.cases import phantom_cases
from samihs_export.proof.export_proof import Proof
from samihs_runtime.bundle import GraphEntry, WindowRule
from samihs_runtime.errors import ExportError, ParityError
from samihs_training.network.model import SamihsModel
from tests.export.conftest import SLICE, TINY, Exported, train_elsewhere
from tests.export.replaced import replace_tensors, site_tensors


@pytest.fixture(scope="module")
def other_site(exported: Exported) -> SamihsModel:
    """The session's base, trained elsewhere: other adapters, another decoder."""
    model = copy.deepcopy(exported.model)
    train_elsewhere(model, seed=7)
    return model.eval()


@pytest.fixture(scope="module")
def proof(other_site: SamihsModel) -> Proof:
    window = WindowRule("fixed", -20.0, 100.0)
    cases = phantom_cases(4, slice_size=SLICE, mask_size=TINY.mask_size, window=window)
    return Proof.of(other_site, cases, trained=False)


def no_ranges() -> dict[str, object]:
    raise AssertionError("nothing to calibrate here")


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def exchanged(
    exported: Exported, entry: GraphEntry, other: Path, out: Path, *, without: str = "none"
) -> None:
    """The session's graphs with the other site's tensors, except those that ``without`` names."""
    files = exported.bundle.graph(entry.family, entry.precision)
    for source, path in ((files.encoder, entry.encoder), (files.decoder, entry.decoder)):
        ours, theirs = site_tensors(source), site_tensors(other / path)
        mixed = {n: ours[n] if without in n else value for n, value in theirs.items()}
        replace_tensors(source, mixed, out / path)


@pytest.mark.parametrize(("family", "precision"), [("onnx", "fp32"), ("trt", "fp16")])
def test_exchanged_tensors_answer_like_the_other_site(
    exported: Exported,
    other_site: SamihsModel,
    proof: Proof,
    tmp_path: Path,
    family: str,
    precision: Precision,
) -> None:
    merged, other, out = merge(other_site)[0], tmp_path / "other", tmp_path / "out"
    entry = write_graphs(other, merged, family, precision, SLICE, no_ranges)
    exchanged(exported, entry, other, out)
    proof.prove_graph(out, entry, merged)
    # Everything that was not exchanged is equal in both: the set of names is complete.
    for path in (entry.encoder, entry.decoder):
        tensors = [
            {
                each.name: numpy_helper.to_array(each)
                for each in onnx.load(root / path).graph.initializer
            }
            for root in (other, out)
        ]
        assert tensors[0].keys() == tensors[1].keys()
        for name, value in tensors[0].items():
            np.testing.assert_array_equal(value, tensors[1][name], err_msg=name)


@pytest.mark.parametrize("left", ["blocks.1.mlp.lin1.bias", "attention.qkv.weight", "tokens"])
def test_a_tensor_left_behind_fails_the_gate(
    exported: Exported, other_site: SamihsModel, proof: Proof, tmp_path: Path, left: str
) -> None:
    """TensorRT 11.3's refitter may treat a GEMM's bias as zero: such a fault is detected."""
    merged, other, out = merge(other_site)[0], tmp_path / "other", tmp_path / "out"
    entry = write_graphs(other, merged, "onnx", "fp32", SLICE, no_ranges)
    exchanged(exported, entry, other, out, without=left)
    with pytest.raises(ParityError, match="does not agree"):
        proof.prove_graph(out, entry, merged)


def test_only_what_training_touches_is_refittable(exported: Exported) -> None:
    files = exported.bundle.graph("trt", "fp16")
    names = refittable(onnx.load(files.encoder).graph)
    assert sorted(names) == sorted(
        f"blocks.{block}.{layer}.{kind}"
        for block in range(TINY.depth)
        for layer in ("attention.qkv", "mlp.lin1")
        for kind in ("weight", "bias")
    )
    assert not [n for n in refittable(onnx.load(files.decoder).graph) if n.startswith("val_")]


def test_weights_are_marked_in_the_parsed_network(exported: Exported) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")
    files = exported.bundle.graph("trt", "fp16")
    for path in (files.encoder, files.decoder):
        log = trt.Logger(trt.Logger.INTERNAL_ERROR)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse_from_file(str(path))
        graph = onnx.load(path).graph
        names = refittable(graph)
        mark_refittable(network, names)
        marked = [
            n.name for n in graph.initializer if network.are_weights_marked_refittable(n.name)
        ]
        assert sorted(marked) == sorted(names)
        with pytest.raises(ExportError, match=r"no weights named blocks\.9"):
            mark_refittable(network, ["blocks.9.mlp.lin1.bias"])
