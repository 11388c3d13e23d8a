"""The gates pass correct answers and reject wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from samihs_export import pipeline, verify
from samihs_export.merge import MergeReport, merge
from samihs_export.proof.cases import (
    Answer,
    ParityCase,
    load_reference,
    phantom_cases,
    save_reference,
)
from samihs_export.proof.gates import FP32_GATES, gates_for, numbers_only
from samihs_export.proof.parity import answers_of_onnx, compare
from samihs_export.proof.reference import answers_of_model
from samihs_export.verify import REFERENCE
from samihs_runtime.backends.contract import DECODER, ENCODER
from samihs_runtime.bundle import WindowRule
from samihs_runtime.errors import BundleError, ParityError
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel
from tests.export.conftest import METADATA, OPTIONS, SLICE, TINY, Exported, adapted_model

GATES = gates_for("fp32", trained=False)


def answer(mask: NDArray[np.bool_], score: float = 0.9) -> Answer:
    logits = np.where(mask, 4.0, -4.0).astype(np.float32)
    return Answer(logits, mask, score, np.ones((2, 3, 3), np.float32))


def disc(radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:64, :64] - 32
    return np.asarray(x**2 + y**2 <= radius**2)


@pytest.fixture(scope="module")
def cases() -> list[ParityCase]:
    window = WindowRule("fixed", -20.0, 100.0)
    return phantom_cases(4, slice_size=SLICE, mask_size=TINY.mask_size, window=window)


def test_equal_answers_pass_every_gate() -> None:
    result = compare("same", [answer(disc(10))], [answer(disc(10))])
    assert (result.mask_iou_mean, result.mask_iou_min, result.volume_relative) == (1, 1, 0)
    result.require(FP32_GATES)


def test_empty_masks_agree() -> None:
    nothing = answer(np.zeros((8, 8), bool))
    assert compare("none", [nothing], [nothing]).mask_iou_min == 1


@pytest.mark.parametrize(
    ("changed", "gate"),
    [
        (answer(disc(11)), "mask_iou_mean"),
        (answer(disc(11)), "volume_relative"),
        (answer(disc(10), score=0.8), "score_difference"),
        (dataclasses.replace(answer(disc(10)), embedding=np.full((2, 3, 3), 1.1)), "embedding"),
        (dataclasses.replace(answer(disc(10)), logits=answer(disc(10)).logits * 1.1), "logits"),
    ],
)
def test_each_gate_fails_for_its_own_fault(changed: Answer, gate: str) -> None:
    result = compare("changed", [answer(disc(10))], [changed])
    with pytest.raises(ParityError, match=gate):
        result.require(FP32_GATES)


def test_a_failed_gate_is_reported_even_if_its_place_is_not_found() -> None:
    def lost() -> str:
        raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB")

    result = compare("changed", [answer(disc(10))], [answer(disc(11))])
    words = r"mask_iou_mean .*\(the place could not be found: ValueError: .* 2GB\)"
    with pytest.raises(ParityError, match=words):
        result.require(FP32_GATES, lost)


def test_one_bad_case_among_good_ones_fails_the_least_iou() -> None:
    good = [answer(disc(10))] * 999
    result = compare("one", [*good, answer(disc(10))], [*good, answer(disc(7))])
    assert result.mask_iou_mean > 0.999
    with pytest.raises(ParityError, match="mask_iou_min"):
        result.require(FP32_GATES)


@pytest.mark.parametrize("field", ["logits", "embedding", "score"])
def test_nan_never_passes(field: str) -> None:
    good = answer(disc(10))
    bad = np.nan if field == "score" else np.full_like(getattr(good, field), np.nan)
    result = compare("nan", [good, good], [dataclasses.replace(good, **{field: bad}), good])
    with pytest.raises(ParityError, match=field):
        result.require(numbers_only(FP32_GATES))


def test_cases_cover_the_contract(cases: list[ParityCase]) -> None:
    labels = [tuple(case.labels) for case in cases]
    assert labels == [(1, -1), (1, 0, -1), (2, 3), (1, -1)]
    assert [case.prior is not None for case in cases] == [False, False, False, True]
    for case in cases:
        assert case.hu.shape == (SLICE, SLICE)
        assert case.points.min() >= 0
        assert case.points.max() < SLICE
    assert not np.array_equal(cases[0].hu, cases[3].hu)


def test_cases_are_what_the_graphs_take(cases: list[ParityCase]) -> None:
    for case in cases:
        prompt = case.prompt_feeds(TINY.mask_size)
        types = {name: str(value.dtype) for name, value in prompt.items()}
        assert {"embedding": "float32", **types} == dict(DECODER.inputs)
        assert prompt["prior"].shape == (1, 1, TINY.mask_size, TINY.mask_size)
        assert prompt["has_prior"].tolist() == [float(case.prior is not None)]
        types = {name: str(value.dtype) for name, value in case.slice_feeds().items()}
        assert types == dict(ENCODER.inputs)
        assert case.slice_feeds()["hu"].shape == (1, 1, SLICE, SLICE)
    kinds = ["a click", "two clicks", "a box", "a click with a prior"]
    assert [case.prompt for case in cases] == kinds


def test_reference_survives_the_file(cases: list[ParityCase], tmp_path: Path) -> None:
    given = [answer(disc(i + 3), score=i / 7) for i in range(4)]
    save_reference(tmp_path / "r.npz", cases, given)
    read_cases, read_answers = load_reference(tmp_path / "r.npz")
    for before, after in zip(cases, read_cases, strict=True):
        for name in ("hu", "window", "points", "labels"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert (after.prior is None) == (before.prior is None)
    compare("file", given, read_answers).require(FP32_GATES)


def test_a_broken_reference_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(BundleError, match=r"r\.npz"):
        load_reference(tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("encoder", "blocks.0.attention.qkv.bias"),
        ("encoder", "pos_embed"),
        ("decoder", "points.kinds"),
        ("decoder", "cells.hypernetwork.layers.1.bias"),
    ],
)
def test_a_fault_planted_in_a_graph_fails_the_gate(
    exported: Exported, tmp_path: Path, cases: list[ParityCase], part: str, fault: str
) -> None:
    files = exported.bundle.graph("onnx")
    paths = {"encoder": files.encoder, "decoder": files.decoder}
    model = onnx.load(paths[part])
    tensor = next(each for each in model.graph.initializer if each.name == fault)
    wrong = np.zeros_like if fault.endswith("bias") else np.negative
    tensor.CopyFrom(numpy_helper.from_array(wrong(numpy_helper.to_array(tensor)), fault))
    reference = answers_of_model(exported.model, cases)
    right = compare("right", reference, answers_of_onnx(files.encoder, files.decoder, cases, 1))
    right.require(GATES)
    paths[part] = tmp_path / "wrong.onnx"
    onnx.save(model, paths[part])
    answers = answers_of_onnx(paths["encoder"], paths["decoder"], cases, 1)
    with pytest.raises(ParityError, match="wrong does not agree on 4 slices") as raised:
        compare("wrong", reference, answers).require(GATES)
    assert "written" not in str(raised.value)  # left to the caller


def test_verify_advises_what_to_do(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle exists, so "nothing was written" would be wrong."""
    impossible = dataclasses.replace(GATES, logits_relative=-1.0)
    monkeypatch.setattr(verify, "_gates", lambda bundle, precision: impossible)
    with pytest.raises(ParityError, match="; export the bundle again, or build its") as raised:
        verify.verify_bundle(exported.bundle.root)
    assert "written" not in str(raised.value)


@pytest.mark.parametrize("fault", ["dropped bias", "flipped weight", "wrong pad order"])
def test_a_fault_planted_in_the_merge_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported, fault: str
) -> None:
    def faulty(model: SamihsModel) -> tuple[SamihsModel, MergeReport]:
        merged, report = merge(model)
        block = merged.sam.image_encoder.blocks[0]
        with torch.no_grad():
            if fault == "dropped bias":
                block.mlp.lin1.bias.zero_()
            elif fault == "flipped weight":
                weight = block.attn[1].qkv.weight
                weight[0] = -weight[0]
            else:
                block.norm1, block.attn = block.attn
        return merged, report

    out = tmp_path / "bundle"
    out.mkdir()
    old = exported.bundle.root / "manifest.json"
    (out / "manifest.json").write_bytes(old.read_bytes())
    monkeypatch.setattr(pipeline, "merge", faulty)
    pr = PRConfig(rank=8, pad_before_norm=True)
    block = "sam.image_encoder.blocks.0"
    place = f"{block}.norm2 and" if fault == "dropped bias" else f"and {block}.norm2"
    with pytest.raises(ParityError, match=f"merged torch.*{place}.*; nothing was written"):
        pipeline.export_bundle(adapted_model(pr), METADATA, out, OPTIONS)
    assert (out / "manifest.json").read_bytes() == old.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]
    assert [each.name for each in out.iterdir()] == ["manifest.json"]


def test_the_bundle_holds_what_verify_needs(exported: Exported) -> None:
    _, answers = load_reference(exported.bundle.root / REFERENCE)
    assert len(answers) == OPTIONS.reference_slices
