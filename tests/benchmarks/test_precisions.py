"""Graphs of every precision get the same input, and answer like the model and the runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import precisions
import pytest
from accuracy import Tally, difference, judge
from precisions import (
    ADAPTERS,
    BASE,
    REFERENCE,
    SIZE,
    Graphs,
    onnx_graphs,
    predictor_of,
    torch_graphs,
)
from record import Record

from samihs_export.merge import merge
from samihs_runtime.bundle import Bundle, WindowRule, shipped_bundle
from samihs_runtime.errors import UsageError
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.checkpoints.checkpoint import load_adapters
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target
from samihs_training.evaluation.predictors import bundle_predictor, checkpoint_predictor

CLICK = (200.0, 240.0)


def bled() -> tuple[np.ndarray, np.ndarray]:
    """A slice with a round bleed in a round brain, and the bleed."""
    rows, columns = np.indices((SIZE, SIZE))
    brain = (rows - 256) ** 2 + (columns - 256) ** 2 < 180**2
    disk = (rows - CLICK[1]) ** 2 + (columns - CLICK[0]) ** 2 < 25**2
    noise = np.random.default_rng(0).normal(0, 3, (SIZE, SIZE))
    hu = np.where(disk, 70, np.where(brain, 30, -1000)) + noise
    return hu.astype(np.int16), disk


def test_graphs_on_onnx_runtime_answer_as_the_runtime_does() -> None:
    hu, _ = bled()
    bundle = Bundle.open(shipped_bundle())
    with bundle_predictor(None, "cpu") as served:
        expected_mask, expected_score = served.answer(hu, [CLICK])[0]
    files = bundle.graph("onnx")
    graphs = onnx_graphs(files.encoder, files.decoder)
    mask, score = predictor_of("", graphs, bundle.manifest.window).answer(hu, [CLICK])[0]
    assert mask.sum() > 100
    assert np.array_equal(mask, expected_mask)
    assert score == pytest.approx(expected_score, abs=1e-5)


def test_torch_graphs_answer_as_the_model_does_and_nearly_in_bfloat16() -> None:
    hu, _ = bled()
    loaded = load_adapters(ADAPTERS, BASE)
    merged, _ = merge(loaded.model)
    with checkpoint_predictor(ADAPTERS, BASE) as model:
        expected = model.answer(hu, [CLICK])[0][0]
    shares = {}
    for family, precision in (("onnx", "fp32"), ("trt", "bf16")):
        graphs = torch_graphs(merged, family, precision)
        mask = predictor_of("", graphs, loaded.window).answer(hu, [CLICK])[0][0]
        shares[precision] = (mask & expected).sum() / (mask | expected).sum()
    assert expected.sum() > 100
    assert shares["fp32"] > 0.999
    assert shares["bf16"] > 0.9


def test_a_slice_of_another_size_is_refused() -> None:
    def never(*_: object) -> Any:
        raise AssertionError("the graphs were asked")

    predictor = predictor_of("", Graphs(never, never), WindowRule("fixed", -20.0, 100.0))
    with pytest.raises(UsageError, match=r"\(256, 256\) pixels: these graphs take 512 x 512"):
        predictor.answer(np.zeros((256, 256), np.int16), [CLICK])


def test_every_subject_is_judged_on_bleeds_alone(make_slice: Callable[..., StudySlice]) -> None:
    hu, disk = bled()
    prompts = [Prompt((click,), (FOREGROUND,)) for click in (CLICK, (330.0, 330.0))]
    targets = (
        Target(disk, prompts[0], BleedType.INTRAPARENCHYMAL),
        Target(np.zeros_like(disk), prompts[1], BleedType.NONE),
    )
    tally = Tally()
    with bundle_predictor(None, "cpu") as one, checkpoint_predictor(ADAPTERS, BASE) as other:
        judge(make_slice(3, hu, targets), {REFERENCE: other, "CPU backend": one}, tally)
    record = Record("precisions", tally.series(), commit="", machine={}, versions={})
    assert len(record.find(REFERENCE, "Dice, all").samples) == 1
    assert record.find("CPU backend", "Dice, all").samples[0] > 0.5


@pytest.mark.slow
def test_a_study_through_every_graph_says_what_each_precision_costs() -> None:
    record = precisions.measure(studies=1, precisions=("fp16", "bf16", "int8"))
    subjects = {each.subject for each in record.series}
    wanted = {"CPU backend, onnx fp32", "CPU backend, onnx int8", "ONNX Runtime CPU, trt fp16",
              "torch CPU, trt bf16", "ONNX Runtime CPU, trt int8"}  # fmt: skip
    assert wanted <= subjects
    for subject in wanted:
        found = difference(record, subject, REFERENCE, "Dice", "all")
        assert found is not None
        assert abs(found.mean) < 0.05, subject
    exact = difference(record, "CPU backend, onnx fp32", REFERENCE, "Dice", "all")
    assert exact is not None
    assert abs(exact.mean) < 1e-3
