"""Prompts that a model was not trained on, asked in ways that it was: on a fake backend that grows
regions, and on the shipped model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.answering import SliceAnswer, answer_prompt, box_seeds
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.trained_prompts import TrainedPrompts
from samihs_runtime.errors import BundleError
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prediction, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_training.data.phantom import BleedType, PhantomOptions, Tissue, generate_slice

SIDE = 64


def disk(row: int, column: int, radius: int) -> NDArray[np.bool_]:
    rows, columns = np.indices((SIDE, SIDE))
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


LEFT, RIGHT = disk(32, 16, 8), disk(32, 44, 10)
HU = np.where(LEFT | RIGHT, 70, 30).astype(np.int16)


class Asked(Segmenter):
    """A segmenter that notes what its model is asked."""

    def predict_batch(self, encoded: Any, prompts: Any, priors: Any = None) -> list[Prediction]:
        self.asked = [*getattr(self, "asked", []), *((p, priors is not None) for p in prompts)]
        return super().predict_batch(encoded, prompts, priors)


def opened(home: Path, prompts: dict[str, object] | None) -> Asked:
    bundle = Bundle.open(home)
    told = {} if prompts is None else {"prompts": prompts}
    manifest = replace(bundle.manifest, provenance={**bundle.manifest.provenance, **told})
    bundle = replace(bundle, manifest=manifest)
    return Asked(bundle, FakeBackend.for_manifest(bundle.manifest))


@pytest.fixture
def one_click(tiny_bundle: Path) -> Iterator[Asked]:
    """A model of one click and one correction, without boxes."""
    with opened(tiny_bundle, {"points": 2, "boxes": False}) as segmenter:
        yield segmenter


def clicks(*points: tuple[float, float], off: tuple[tuple[float, float], ...] = ()) -> Prompt:
    labels = (FOREGROUND,) * len(points) + (BACKGROUND,) * len(off)
    return Prompt((*points, *off), labels)


def dice(answer: SliceAnswer, truth: NDArray[np.bool_]) -> float:
    return float(2 * (answer.mask & truth).sum() / (answer.mask.sum() + truth.sum()))


def test_a_model_of_which_nothing_is_known_is_asked_everything_at_once(tiny_bundle: Path) -> None:
    prompt = replace(clicks((16, 32), (44, 32), (46, 32)), box=(5.0, 20.0, 60.0, 45.0))
    with opened(tiny_bundle, None) as segmenter:
        assert segmenter.bundle.trained_prompts == TrainedPrompts(points=None, boxes=True)
        answer_prompt(segmenter, HU, prompt)
        assert segmenter.asked == [(prompt, False)]


@pytest.mark.parametrize(
    "stated", [{}, {"points": 2}, {"boxes": True}, {"points": "2", "boxes": 1}]
)
def test_prompts_that_are_stated_in_part_are_a_fault_of_the_bundle(stated: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"provenance\.prompts is .*export the bundle again"):
        TrainedPrompts.of({"prompts": stated})


def test_more_points_than_it_knows_are_asked_alone_and_united(one_click: Asked) -> None:
    points = [(16, 32), (44, 32), (46, 30), (42, 34), (45, 35)]
    answer = answer_prompt(one_click, HU, clicks(*points))
    assert [prompt for prompt, _ in one_click.asked] == [clicks(point) for point in points]
    assert dice(answer, LEFT | RIGHT) > 0.9
    assert answer.notes == ()


def test_the_score_is_the_mean_of_single_clicks(one_click: Asked) -> None:
    encoded = one_click.encode(HU)
    points = [(16, 32), (44, 32), (30, 10)]
    alone = [one_click.predict(encoded, clicks(point)).score for point in points]
    assert len(set(alone)) > 1
    for most in (2, 3):
        answer = answer_prompt(one_click, HU, clicks(*points[:most]))
        assert answer.score == pytest.approx(np.mean(alone[:most]))


def test_a_second_point_corrects_the_answer_to_the_first(one_click: Asked) -> None:
    answer_prompt(one_click, HU, clicks((44, 32), off=((16, 32),)))
    assert one_click.asked == [
        (clicks((44, 32)), False),
        (clicks((44, 32), off=((16, 32),)), True),  # with the first answer as its prior
    ]


def test_background_clicks_go_to_the_answers_that_they_contradict(one_click: Asked) -> None:
    prompt = clicks((16, 32), (44, 32), off=((46, 32), (50, 32), (30, 5)))
    answer = answer_prompt(one_click, HU, prompt)
    assert [prompt for prompt, _ in one_click.asked] == [
        clicks((16, 32)),
        clicks((44, 32)),
        clicks((44, 32), off=((46, 32),)),  # the nearest within its mask, as far as it knows
    ]
    assert answer.mask[32, 16]


def test_what_the_mask_does_not_heed_is_said(one_click: Asked) -> None:
    prompt = clicks((16, 32), (30, 5), (31, 5), off=((17, 33),))

    def stubborn(encoded: Any, prompts: Any, priors: Any = None) -> list[Prediction]:
        size = one_click.bundle.manifest.mask_size
        return [Prediction(LEFT, np.zeros((size, size), np.float32), 0.9) for _ in prompts]

    one_click.predict_batch = stubborn  # type: ignore[method-assign]
    assert answer_prompt(one_click, HU, prompt).notes == (
        "the background click at column 17, row 33 is still inside the mask",
        "the click at column 30, row 5 is not in the mask",
        "the click at column 31, row 5 is not in the mask",
    )


def test_a_box_is_clicked_within_and_bounds_the_mask(one_click: Asked) -> None:
    box = (33.0, 21.0, 55.0, 43.0)
    answer = answer_prompt(one_click, HU, Prompt(box=box))
    assert all(prompt.box is None for prompt, _ in one_click.asked)
    assert dice(answer, RIGHT) > 0.9
    half = answer_prompt(one_click, HU, Prompt(box=(33.0, 21.0, 44.0, 43.0)))
    assert half.mask[:, 50:].sum() == 0
    assert half.mask.any()


def test_a_box_with_clicks_keeps_to_the_clicks(one_click: Asked) -> None:
    prompt = Prompt(((16.0, 32.0),), (FOREGROUND,), (5.0, 20.0, 60.0, 45.0))
    assert dice(answer_prompt(one_click, HU, prompt), LEFT) > 0.9


def test_a_model_of_boxes_gets_box_and_points_together(tiny_bundle: Path) -> None:
    prompt = Prompt(((44.0, 32.0),), (FOREGROUND,), (33.0, 21.0, 55.0, 43.0))
    with opened(tiny_bundle, {"points": 2, "boxes": True}) as segmenter:
        answer_prompt(segmenter, HU, prompt)
        assert segmenter.asked == [(prompt, False)]


@pytest.mark.parametrize("box", [(-3, -2, 6, 70), (60, 60, 63, 63), (10.2, 5.5, 10.4, 5.6)])
def test_seeds_of_a_box_lie_on_the_slice(box: tuple[float, float, float, float]) -> None:
    seeds = box_seeds(HU, box, (10.0, 110.0))
    assert len(seeds) == 10
    assert all(0 <= x < SIDE and 0 <= y < SIDE for x, y in seeds)


def test_the_first_seed_is_the_brightest_that_may_be_blood() -> None:
    hu = np.where(RIGHT, 60, 30).astype(np.int16)
    hu[:, :3] = 1200  # bone
    x, y = box_seeds(hu, (0, 0, 63, 63), (10.0, 110.0))[0]
    assert RIGHT[int(y), int(x)]


def test_the_shipped_model_answers_boxes_and_many_points() -> None:
    """On a phantom's slice: a box finds the bleed, points on healthy brain find none."""
    sample = generate_slice(
        5_000_001,
        PhantomOptions(
            bleeds=(BleedType.INTRAPARENCHYMAL,),
            volume_range_ml=(25, 40),
            crossing_probability=1.0,
            distractors=False,
        ),
    )
    truth = sample.bleeds > 0
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = (columns[0] - 3.0, rows[0] - 3.0, columns[-1] + 3.0, rows[-1] + 3.0)
    healthy = ndimage.binary_erosion(sample.tissues == Tissue.WHITE, iterations=2)
    healthy &= ~ndimage.binary_dilation(truth, iterations=25)
    at = np.argwhere(healthy)
    near = at[np.argsort(np.hypot(*(at - at[len(at) // 2]).T))[:200:50]]
    with Segmenter.from_bundle(None, "cpu") as segmenter:
        assert segmenter.bundle.trained_prompts == TrainedPrompts(points=2, boxes=False)
        threshold = segmenter.bundle.manifest.score_threshold
        boxed = answer_prompt(segmenter, sample.hu, Prompt(box=box))
        pointed = answer_prompt(
            segmenter, sample.hu, clicks(*((float(x), float(y)) for y, x in near))
        )
    assert dice(boxed, truth) > 0.8
    assert boxed.score >= threshold
    assert pointed.score < threshold
