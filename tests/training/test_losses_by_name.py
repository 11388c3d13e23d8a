"""Every loss against its formula written out pixel by pixel, and its gradient."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samihs_runtime.errors import UsageError
from samihs_training.losses import LOSSES, BoundarySensitiveLoss, build_loss

# MONAI 1.6's own use of deprecated torch and numpy calls, nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
]
E = 1e-5
Array = NDArray[np.float64]
SHAPE = (7, 6)


def masks() -> Array:
    """[3, H, W]: a block with a hole at the edge, one pixel, nothing."""
    y = np.zeros((3, *SHAPE))
    y[0, 2:7, 1:5], y[0, 4, 2], y[1, 3, 3] = 1, 0, 1
    return y


def logits() -> Array:
    x = np.random.default_rng(11).normal(-0.5, 1.5, (3, *SHAPE)) + 2 * masks()
    assert np.abs(x).min() > 1e-3  # no pixel at the threshold, where Hausdorff's loss jumps
    return np.asarray(x)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def slow_bce(x: Array, y: Array, pos_weight: float) -> float:
    total = 0.0
    for logit, label in zip(x.ravel(), y.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= pos_weight * label * math.log(p) + (1 - label) * math.log(1 - p)
    return total / x.size


def slow_dice(x: Array, y: Array) -> float:
    p = sigmoid(x)
    return float(1 - (2 * (p * y).sum() + E) / (p.sum() + y.sum() + E))


def mean_dice(x: Array, y: Array) -> float:
    return float(np.mean([slow_dice(*pair) for pair in zip(x, y, strict=True)]))


def slow_focal(x: Array, y: Array, gamma: float, alpha: float) -> float:
    total = 0.0
    for logit, label in zip(x.ravel(), y.ravel(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t, weight = (p, alpha) if label else (1 - p, 1 - alpha)
        total -= weight * (1 - p_t) ** gamma * math.log(p_t)
    return total / x.size


def slow_distance(mask: NDArray[np.bool_]) -> Array:
    """Of each pixel to the nearest one on the other side; 0 where there is no other side."""
    field = np.zeros(mask.shape)
    pixels = list(product(range(mask.shape[0]), range(mask.shape[1])))
    for pixel in pixels:
        others = [math.dist(pixel, each) for each in pixels if mask[each] != mask[pixel]]
        field[pixel] = min(others, default=0.0)
    return field


def slow_kervadec(x: Array, y: Array) -> float:
    values = []
    for logit, label in zip(x, y > 0.5, strict=True):
        distance = slow_distance(label)
        inside = -(distance - 1) * (distance > 0)
        values.append(float((np.where(label, inside, distance) * sigmoid(logit)).mean()))
    return float(np.mean(values))


def slow_hausdorff(x: Array, y: Array, alpha: float) -> float:
    values = []
    for logit, label in zip(x, y, strict=True):
        p = sigmoid(logit)
        weight = slow_distance(label > 0.5) ** alpha + slow_distance(p > 0.5) ** alpha
        values.append(float(((p - label) ** 2 * weight).mean()))
    return float(np.mean(values))


def slow(name: str, x: Array, y: Array) -> float:
    """Each loss with its default options."""
    match name:
        case "bce":
            return slow_bce(x, y, 2.0)
        case "dice":
            return mean_dice(x, y)
        case "dice_bce":
            return 0.5 * slow_bce(x, y, 1.0) + 0.5 * mean_dice(x, y)
        case "focal":
            return slow_focal(x, y, 2.0, 0.75)
        case "kervadec":
            return 0.99 * mean_dice(x, y) + 0.01 * slow_kervadec(x, y)
        case "hausdorff":
            return 0.99 * mean_dice(x, y) + 0.01 * slow_hausdorff(x, y, 2.0)
    raise AssertionError(name)


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(logits())[:, None], torch.from_numpy(masks())[:, None]


# boundary_sensitive has its reference and the authors' numbers in test_losses.py.
@pytest.mark.parametrize("name", [each for each in LOSSES if each != "boundary_sensitive"])
def test_formula(name: str) -> None:
    # MONAI keeps distances in float32: 1e-7 of them, a hundred times below the tolerance.
    assert build_loss(name)(*tensors()).item() == pytest.approx(
        slow(name, logits(), masks()), rel=1e-5 if name in ("kervadec", "hausdorff") else 1e-10
    )


def slow_bce_over_lesions(x: Array, y: Array, pos_weight: float) -> float:
    values = []
    for logit, label in zip(x, y, strict=True):
        area = max(label.sum(), (logit > 0).sum(), 32)
        values.append(slow_bce(logit, label, pos_weight) * logit.size / area)
    return float(np.mean(values))


def test_cross_entropy_over_the_lesion() -> None:
    rng = np.random.default_rng(3)
    y = np.zeros((3, 12, 12))
    y[0, 2:10, 2:10], y[1, 5, 5] = 1, 1  # a collection, a speck that is drawn large, nothing
    x = rng.normal(-2, 1.0, y.shape) + 4 * y
    x[1, 1:9, 1:9] += 5
    given = torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]
    over = slow_bce_over_lesions(x, y, 2.0)
    assert build_loss("bce", over="lesion")(*given).item() == pytest.approx(over)
    boundary = BoundarySensitiveLoss().boundary(given[0].sigmoid(), given[1]).item()
    loss = build_loss("boundary_sensitive", over="lesion", weight=0.25)
    assert loss(*given).item() == pytest.approx(0.75 * over + 0.25 * boundary)
    both = build_loss("dice_bce", over="lesion", pos_weight=2.0)(*given).item()
    assert both == pytest.approx(0.5 * over + 0.5 * mean_dice(x, y))


def test_what_is_missed_with_confidence_is_felt_over_the_lesion_alone() -> None:
    """A third of a collection is found; what pulls on the rest, against a slice of 256 x 256."""
    y = torch.zeros(1, 1, 256, 256, dtype=torch.float64)
    y[..., 20:50, 20:60] = 1
    found = torch.zeros_like(y)
    found[..., 20:50, 20:33] = 1

    def pull(name: str, **options: str) -> float:
        x = (12 * found - 6).requires_grad_()
        build_loss(name, **options)(x, y).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return -x.grad[(y - found) > 0].sum().item()

    plain, over = pull("boundary_sensitive"), pull("boundary_sensitive", over="lesion")
    assert over > 20 * plain
    assert over == pytest.approx(2 * 0.5 * 27 / 40, rel=0.02)  # pos_weight, share, what is missing


def test_options_reach_the_formula() -> None:
    x, y = tensors()
    assert build_loss("bce", pos_weight=5.0)(x, y).item() == pytest.approx(
        slow_bce(logits(), masks(), 5.0)
    )
    assert build_loss("focal", gamma=1.0, alpha=0.25)(x, y).item() == pytest.approx(
        slow_focal(logits(), masks(), 1.0, 0.25)
    )
    assert build_loss("hausdorff", weight=1.0, alpha=1.0)(x, y).item() == pytest.approx(
        slow_hausdorff(logits(), masks(), 1.0), rel=1e-5
    )
    assert build_loss("kervadec", weight=1.0)(x, y).item() == pytest.approx(
        slow_kervadec(logits(), masks()), rel=1e-5
    )
    assert build_loss("dice", reduction="batch")(x, y).item() == pytest.approx(
        slow_dice(logits(), masks())
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    x, y = tensors()
    loss = build_loss(name)
    assert torch.autograd.gradcheck(lambda each: loss(each, y), x.clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_the_right_answer_is_better_and_masks_may_be_bytes(name: str) -> None:
    _, y = tensors()
    loss = build_loss(name)
    right, wrong = 12 * (2 * y - 1).float(), -12 * (2 * y - 1).float()
    assert loss(right, y.byte()) < loss(wrong, y.byte())
    assert torch.isfinite(loss(wrong, y.byte()))


def test_names_and_options_are_checked() -> None:
    assert build_loss("boundary_sensitive", cap=0.5) == BoundarySensitiveLoss(cap=0.5)
    with pytest.raises(UsageError, match="'tversky': expected one of boundary_sensitive, bce"):
        build_loss("tversky")
    with pytest.raises(UsageError, match="loss dice: unknown option gamma; known: reduction"):
        build_loss("dice", gamma=2)
    wrong: dict[str, dict[str, object]] = {
        "bce": {"over": "image"},
        "dice": {"reduction": "mean"},
        "dice_bce": {"weight": 2},
        "focal": {"alpha": 1},
        "kervadec": {"weight": -1},
        "hausdorff": {"alpha": 0},
    }
    for name, options in wrong.items():
        (option,) = options
        with pytest.raises(UsageError, match=option):
            build_loss(name, **options)
    with pytest.raises(UsageError, match="wrong type"):
        build_loss("focal", gamma="two")
