"""The page beside a bundle: limits next to figures, and a small picture of the worst cases."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from samihs_export.proof.cases import Answer, ParityCase
from samihs_export.proof.gates import gates_for
from samihs_export.proof.parity import compare
from samihs_export.proof.report import (
    FIGURE,
    MAX_FIGURE_BYTES,
    WorstCase,
    draw_worst_cases,
    report_page,
    worst_case,
)
from samihs_runtime.bundle import Bundle, shipped_bundle

SIDE, LOW = 512, 128
NAME = "onnx fp32 in ONNX Runtime against torch"


def case(seed: int) -> ParityCase:
    hu = np.random.default_rng(seed).normal(35, 20, (SIDE, SIDE)).astype(np.float32)
    points, labels = np.float32([[200, 250], [300, 250]]), np.int32([1, 0])
    return ParityCase(hu, np.float32([-20, 100]), points, labels, None)


def answer(radius: float, noise: float = 0.0) -> Answer:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    logits = np.random.default_rng(1).normal(0, noise, (LOW, LOW)).astype(np.float32)
    return Answer(logits, np.asarray(x**2 + y**2 <= radius**2), 0.9)


@pytest.fixture(scope="module")
def worst() -> list[WorstCase]:
    cases = [case(seed) for seed in range(3)]
    theirs = [answer(50), answer(45, 0.1), answer(50, 0.2)]
    return [worst_case(NAME, cases, [answer(50)] * 3, theirs)] * 5


def test_the_worst_is_the_least_iou_then_the_largest_difference(worst: list[WorstCase]) -> None:
    assert worst[0].number == 1
    assert worst[0].iou == pytest.approx(0.81, abs=0.01)
    cases, theirs = [case(0)] * 3, [answer(50), answer(50, 0.1), answer(50, 0.2)]
    assert worst_case(NAME, cases, [answer(50)] * 3, theirs).number == 2


def test_with_random_weights_the_worst_case_has_the_largest_difference() -> None:
    cases = [case(seed) for seed in range(4)]
    theirs = [answer(50), answer(45, 0.1), answer(50, 0.2), answer(50)]
    reference = [answer(50)] * 4
    assert worst_case(NAME, cases, reference, theirs, masks_judged=False).number == 2
    theirs[3].logits[5, 5] = np.nan
    assert worst_case(NAME, cases, reference, theirs, masks_judged=False).number == 3


def test_the_picture_is_small(worst: list[WorstCase], tmp_path: Path) -> None:
    """Five rows of noise, which PNG cannot compress."""
    assert draw_worst_cases(tmp_path / FIGURE, worst)
    content = (tmp_path / FIGURE).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 20_000 < len(content) <= MAX_FIGURE_BYTES


def test_without_matplotlib_the_page_has_no_picture(
    worst: list[WorstCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not draw_worst_cases(tmp_path / FIGURE, worst)
    assert not list(tmp_path.iterdir())


def test_the_page_lists_limits_beside_figures(worst: list[WorstCase]) -> None:
    manifest = Bundle.open(shipped_bundle()).manifest
    result = compare(NAME, [answer(50)], [answer(49, 0.1)])
    parity = {"masks_judged": True, "results": [result.summary()]}
    manifest = dataclasses.replace(manifest, parity=parity)
    page = report_page(manifest, {NAME: gates_for("fp32")}, worst[:1], figure=True)
    assert f"![worst cases]({FIGURE})" in page
    assert "| >= 0.999 |" in page
    assert "| <= 0.001 |" in page
    assert f"| 1 | {NAME} | 1 | 0.8" in page
    assert "embedding" not in page.partition("## Worst")[0].partition("## Figures")[2]
    assert FIGURE not in report_page(manifest, {}, worst[:1], figure=False)
