"""A mirrored bundle: the mean over a slice and its mirror image, in torch, graphs and runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from samihs_export import adapter_sets, pipeline
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.onnx import ORT_OPSET, export_decoder, export_encoder
from samihs_export.merge import merge
from samihs_export.pipeline import export_bundle
from samihs_runtime.bundle import Bundle
from samihs_runtime.segmentation import Prediction, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_training.checkpoints.checkpoint import load_adapters
from samihs_training.evaluation.predictors import checkpoint_predictor
from samihs_training.network.mirror import mirrored_points
from samihs_training.network.model import SamihsModel
from tests.export.conftest import (
    METADATA,
    OPTIONS,
    PR,
    SLICE,
    TINY,
    TINY_PYRAMID,
    Checkpoints,
    adapted_model,
)
from tests.export.test_cli import refused, run

from .test_graphs import random, relative_error

FEW = replace(OPTIONS, precisions=("fp16",), parity_slices=2, reference_slices=1, mirrored=True)
WINDOW = torch.tensor([[-20.0, 100.0], [0.0, 80.0]])
PROMPTS = {
    "click": ([[30.0, 41.0], [0.0, 0.0]], [1, -1]),
    "clicks": ([[30.0, 41.0], [71.5, 12.0], [0.0, 0.0]], [1, 0, -1]),
    "box": ([[20.0, 11.0], [61.0, 52.0]], [2, 3]),
    "click in a box": ([[33.0, 31.0], [20.0, 11.0], [61.0, 52.0]], [1, 2, 3]),
}


@pytest.fixture(scope="module", params=[TINY, TINY_PYRAMID], ids=["patches", "pyramid"])
def model(request: pytest.FixtureRequest) -> SamihsModel:
    return adapted_model(PR, config=request.param).mirrored()


def slices() -> Tensor:
    return random(2, 1, SLICE, SLICE) * 60 + 40


def asked(prompt: str) -> tuple[Tensor, Tensor]:
    points, labels = PROMPTS[prompt]
    return torch.tensor([points] * 2), torch.tensor([labels] * 2, dtype=torch.int32)


def test_a_mirrored_box_is_a_box() -> None:
    points, labels = torch.tensor([[[1.0, 9.0], [2.0, 3.0], [7.0, 5.0]]]), torch.tensor([[1, 2, 3]])
    there = mirrored_points(points, labels, 10)
    assert there.tolist() == [[[8.0, 9.0], [2.0, 3.0], [7.0, 5.0]]]
    assert torch.equal(mirrored_points(there, labels, 10), points)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.no_grad()
def test_a_mirrored_slice_has_the_mirrored_answer(model: SamihsModel, prompt: str) -> None:
    """Not so for a model that sees the slice alone: the plain model is far from it."""
    hu, (points, labels) = slices(), asked(prompt)
    prior = 4 * random(2, 1, model.config.mask_size, model.config.mask_size, seed=1)
    there = mirrored_points(points, labels, SLICE)

    def answers(one: SamihsModel) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        ahead, behind = one.encode(hu, WINDOW), one.encode(hu.flip(-1), WINDOW)
        return (
            one.decode(ahead, points, labels, prior, slice_size=SLICE),
            one.decode(behind, there, labels, prior.flip(-1), slice_size=SLICE),
        )

    (logits, score), (turned, other_score) = answers(model)
    assert relative_error(turned.flip(-1), logits) < 1e-5
    assert relative_error(other_score, score) < 1e-5
    plain = SamihsModel(model.sam, replace(model.config, mirrored=False))
    (first, first_score), (second, second_score) = answers(plain)
    assert relative_error(second.flip(-1), first) > 1e-2
    assert relative_error((first + second.flip(-1)) / 2, logits) < 1e-5
    assert relative_error((first_score + second_score) / 2, score) < 1e-5


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.no_grad()
def test_graphs_answer_like_the_model(model: SamihsModel, prompt: str) -> None:
    hu, (points, labels) = slices(), asked(prompt)
    merged = merge(model)[0]
    embedding = model.encode(hu, WINDOW)
    assert embedding.shape[1] == model.config.embedding_channels
    assert relative_error(EncoderGraph(merged, "bias")(hu, WINDOW), embedding) < 1e-5
    prior = 4 * random(2, 1, model.config.mask_size, model.config.mask_size, seed=1)
    graph = DecoderGraph(merged, SLICE)
    logits, mask, score = graph(embedding, points, labels, prior, torch.tensor([0.0, 1.0]))
    for row, given in enumerate((None, prior[1:])):
        one = slice(row, row + 1)
        expected, their_score = model.decode(
            embedding[one], points[one], labels[one], given, slice_size=SLICE
        )
        assert relative_error(logits[one], expected) < 1e-5
        assert relative_error(score[one], their_score) < 1e-5
    assert mask.shape == (2, SLICE, SLICE)


@torch.no_grad()
def test_onnx_has_the_models_answers_at_any_batch(model: SamihsModel, tmp_path: Path) -> None:
    merged, config = merge(model)[0], model.config
    export_encoder(EncoderGraph(merged, "fused"), SLICE, tmp_path / "encoder.onnx", ORT_OPSET)
    export_decoder(DecoderGraph(merged, SLICE), config, tmp_path / "decoder.onnx", ORT_OPSET)
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("encoder", "decoder")
    )
    hu, (points, labels) = slices(), asked("clicks")
    expected = model.encode(hu, WINDOW)
    for batch in (1, 2):
        feeds = {"hu": hu[:batch].numpy(), "window": WINDOW[:batch].numpy()}
        embedding = torch.from_numpy(encoder.run(None, feeds)[0])
        assert relative_error(embedding, expected[:batch]) < 1e-5
        feeds = {
            "embedding": embedding.numpy(),
            "points": points[:batch].numpy(),
            "labels": labels[:batch].numpy(),
            "prior": np.zeros((batch, 1, config.mask_size, config.mask_size), np.float32),
            "has_prior": np.zeros(batch, np.float32),
        }
        logits = torch.from_numpy(decoder.run(["logits"], feeds)[0])
        their = model.decode(embedding, points[:batch], labels[:batch], slice_size=SLICE)[0]
        assert relative_error(logits, their) < 1e-5


def test_a_mirrored_bundle_answers_alike_on_either_side(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Through the gates, ONNX Runtime and the runtime."""
    loaded = load_adapters(checkpoints.adapters, checkpoints.base)
    bundle = export_bundle(loaded.model, METADATA, tmp_path / "out", FEW)
    assert bundle.manifest.method["mirrored"] is True
    assert bundle.manifest.embedding_channels == 2 * TINY.embedding_channels
    hu = slices()[0, 0].numpy()
    with Segmenter.from_bundle(bundle.root, "cpu") as segmenter:

        def answer(pixels: NDArray[np.float32], x: float) -> Prediction:
            return segmenter.predict(segmenter.encode(pixels), Prompt(((x, 41.0),), (1,)))

        here = answer(hu, 30.0)
        there = answer(np.ascontiguousarray(hu[:, ::-1]), SLICE - 1 - 30.0)
    assert here.logits == pytest.approx(there.logits[:, ::-1], rel=1e-3, abs=1e-3)
    assert here.score == pytest.approx(there.score, abs=1e-4)


def test_sets_in_a_mirrored_bundle_are_mirrored(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "ExportOptions", lambda **given: replace(FEW, **given))
    monkeypatch.setattr(adapter_sets, "ExportOptions", lambda **given: FEW)
    paths = "--checkpoint", checkpoints.adapters, "--base", checkpoints.base
    made = run("bundle", *paths, "--out", tmp_path / "out", "--mirror", "--untrained")
    assert made.exit_code == 0, made.output
    # The evaluation beside the checkpoint was measured without the mirror.
    assert "its threshold is taken, its figures are not" in made.output
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.accuracy == {"score_threshold": 0.4204}
    assert manifest.score_threshold == 0.42
    added = run("add-adapters", tmp_path / "out", *paths, "--name", "north")
    assert added.exit_code == 0, added.output
    verified = run("verify", tmp_path / "out")
    assert verified.exit_code == 0, verified.output


def test_figures_measured_with_another_mirror_setting_are_refused(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    figures = json.loads(checkpoints.evaluation.read_text())
    figures["weights"]["mirrored"] = "yes"
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(figures))
    paths = "--checkpoint", checkpoints.adapters, "--base", checkpoints.base
    result = run("bundle", *paths, "--evaluation", path, "--out", tmp_path / "out")
    refused(result, "was measured with the mirrored slice, this bundle is not")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_evaluated_mirrored(checkpoints: Checkpoints) -> None:
    hu = np.random.default_rng(0).normal(40, 20, (TINY.image_size, TINY.image_size))
    hu = hu.astype(np.int16)
    with checkpoint_predictor(checkpoints.adapters, checkpoints.base, mirrored=True) as predictor:
        assert predictor.weights["mirrored"] == "yes"
        (here,) = predictor.answer(hu, [(30, 41)])
        (there,) = predictor.answer(np.ascontiguousarray(hu[:, ::-1]), [(97, 41)])
    assert here[1] == pytest.approx(there[1], abs=1e-5)
    np.testing.assert_array_equal(here[0], there[0][:, ::-1])
