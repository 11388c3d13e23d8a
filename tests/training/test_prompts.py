"""Every way to point at a mask: where its points fall, and that a seed repeats them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.errors import UsageError
from samihs_runtime.prompts import check_prompt
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt
from samihs_training.prompts import PROMPTS, filled, prompt_rule

Mask = NDArray[np.bool_]


def ring() -> Mask:
    """A ring and a far single pixel: the middle of the mask is no part of it."""
    away = np.hypot(*(np.mgrid[:40, :50] - np.array([20, 18])[:, None, None]))
    mask = (away < 12) & (away > 6)
    mask[2, 48] = True
    return np.asarray(mask)


def corner() -> Mask:
    mask = np.zeros((40, 50), bool)
    mask[39, 49] = True
    return mask


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("name", "mask"), list(product(PROMPTS, [ring(), corner(), ~corner()])))
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_points_mean_what_their_labels_say(name: str, mask: Mask, noise: float) -> None:
    for seed in range(20):
        prompt = prompt_rule(name, noise_px=noise)(mask, rng(seed))
        check_prompt(prompt, *mask.shape)
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            assert bool(mask[int(y), int(x)]) == (label == FOREGROUND)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_seed_repeats_a_prompt(name: str) -> None:
    rule = prompt_rule(name, noise_px=1.0)
    assert rule(ring(), rng(3)) == rule(ring(), rng(3))


def test_random_reaches_every_pixel_alike() -> None:
    mask, generator = ring(), rng()
    counts = np.zeros(mask.shape)
    rule = prompt_rule("random")
    draws = 60 * int(mask.sum())
    for _ in range(draws):
        ((x, y),) = rule(mask, generator).points
        counts[int(y), int(x)] += 1
    assert (counts[mask] > 0).all()
    # 60 expected at each: the count of one pixel lies within 6 standard deviations.
    assert np.abs(counts[mask] - 60).max() < 6 * np.sqrt(60)


def test_middle_is_the_authors() -> None:
    """Counted out: rows from the top, in each from the left, element n // 2."""
    mask = ring()
    pixels = [(x, y) for y in range(40) for x in range(50) if mask[y, x]]
    assert prompt_rule("middle")(mask, rng()).points == (pixels[len(pixels) // 2],)


def test_deepest_is_deepest() -> None:
    mask = ring()
    ((x, y),) = prompt_rule("deepest")(mask, rng()).points
    outside = np.argwhere(~mask)

    def depth(row: int, column: int) -> float:
        return float(np.hypot(*(outside - (row, column)).T).min())

    assert depth(int(y), int(x)) == max(depth(*pixel) for pixel in np.argwhere(mask))


def test_several_points_differ_and_run_out() -> None:
    assert len(set(prompt_rule("points", count=5)(ring(), rng()).points)) == 5
    assert prompt_rule("points", count=5)(corner(), rng()).points == ((49.0, 39.0),)


def test_negatives_lie_near_but_not_at_the_outline() -> None:
    mask = ring()
    prompt = prompt_rule("mixed", positives=2, negatives=40, reach=6)(mask, rng())
    assert prompt.labels == (FOREGROUND,) * 2 + (BACKGROUND,) * 40
    inside = np.argwhere(mask)
    for x, y in prompt.points[2:]:
        assert 2 <= np.hypot(*(inside - (y, x)).T).min() <= 6


def test_box_is_the_bounding_box_give_or_take() -> None:
    mask = ring()
    mask[2, 48] = False
    tight = prompt_rule("box", jitter=0.0)(mask, rng())
    assert tight == Prompt(box=(6.5, 8.5, 29.5, 31.5))
    off = [prompt_rule("box", jitter=0.5, most=2.0)(mask, rng(seed)).box for seed in range(50)]
    distance = np.abs(np.array(off, float) - np.array(tight.box))
    assert distance.max() == pytest.approx(2.0)
    assert distance.min() < 2.0


def test_noise_moves_clicks_by_its_size() -> None:
    everywhere = np.ones((101, 101), bool)
    rule = prompt_rule("deepest", noise_px=2.0)
    moved = np.array([rule(everywhere, rng(seed)).points[0] for seed in range(400)]) - 50
    # 2 px, and a twelfth of a pixel squared for rounding; 400 draws know it to 4 %.
    assert moved.std(0) == pytest.approx(np.sqrt(4 + 1 / 12), rel=0.15)


@pytest.mark.parametrize("name", PROMPTS)
def test_elsewhere_is_a_prompt_of_the_same_make(name: str) -> None:
    """Where nothing bleeds: as many points, foreground ones in what is free, in the picture."""
    free = np.ones((60, 60), bool)
    free[:, 35:] = False
    for seed, noise in product(range(10), (0.0, 2.0)):
        rule = prompt_rule(name, noise_px=noise)
        prompt = rule.elsewhere((30.0, 20.0), free, rng(seed))
        check_prompt(prompt, *free.shape)
        assert len(prompt.points) == rule.count
        assert (prompt.box is not None) == (name == "box")
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            assert label == BACKGROUND or free[int(y), int(x)]
            assert np.hypot(x - 30, y - 20) < 15 + 20 + 10  # the decoy, mixed's reach, noise


def test_a_prompt_of_a_small_mask_is_filled_with_its_own_points() -> None:
    rule = prompt_rule("points", count=4)
    assert rule.count == 4
    few = rule(corner(), rng())
    assert len(few.points) == 1
    assert filled(few, rule.count) == Prompt(few.points * 4, few.labels * 4)
    whole = rule(ring(), rng())
    assert filled(whole, rule.count) == whole
    box = prompt_rule("box")(ring(), rng())
    assert filled(box, prompt_rule("box").count) == box


def test_names_and_options_are_checked() -> None:
    with pytest.raises(UsageError, match="'scribble': expected one of hand, random"):
        prompt_rule("scribble")
    with pytest.raises(UsageError, match="prompt middle: unknown option count; known: none"):
        prompt_rule("middle", count=2)
    with pytest.raises(UsageError, match=r"noise -1\.0 px"):
        prompt_rule("middle", noise_px=-1.0)
    with pytest.raises(UsageError, match="wrong type"):
        prompt_rule("points", count="three")
    for name, options in {
        "points": {"count": 0},
        "mixed": {"reach": 1},
        "box": {"most": -1},
    }.items():
        with pytest.raises(UsageError, match=f"prompt {name}"):
            prompt_rule(name, **options)
