"""The boundary-sensitive loss: the authors' figures, and its formula written slowly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samihs_runtime.errors import UsageError
from samihs_training.losses import BoundarySensitiveLoss, contour_of, mask_iou, score_loss

GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[3] / "shared" / "golden"
RELATIVE = 1e-5


def slow_contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixel by pixel: foreground with a 4-neighbour outside the mask or outside the image."""
    rows, columns = mask.shape
    found = np.zeros_like(mask)
    for r in range(rows):
        for c in range(columns):
            around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            inside = [0 <= i < rows and 0 <= j < columns and bool(mask[i, j]) for i, j in around]
            found[r, c] = mask[r, c] and not all(inside)
    return found


def slow_loss(logits: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(boundary, total) of one or more samples taken together: [B, H, W]."""
    e, y = 1e-5, mask.astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    c, s = sum(float(slow_contour(each).sum()) for each in mask), float(y.sum())
    a = min(2 * (1 - (c + e) / (s + e)) - 1, 0.8)
    top = (p**2).sum() + (y**2).sum() - 2 * (p * y).sum() + e
    bottom = (p**2).sum() + (y**2).sum() - (1 + a) * (p * y).sum() + e
    bce = -(2 * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    return float(top / bottom), float(0.5 * bce + 0.5 * top / bottom)


def cases() -> dict[str, NDArray[np.bool_]]:
    disk = np.hypot(*(np.mgrid[:24, :20] - np.array([11, 9])[:, None, None])) < 7
    edge = np.zeros((24, 20), bool)
    edge[:9, 12:] = True
    pixel = np.zeros((24, 20), bool)
    pixel[5, 6] = True
    return {"disk": disk, "edge": edge, "pixel": pixel, "empty": disk & ~disk, "full": disk | ~disk}


@pytest.mark.parametrize("name", ["disk30", "ring"])
def test_authors_numbers(name: str) -> None:
    _compare(GOLDEN, name, [name])


def test_authors_numbers_of_a_batch() -> None:
    _compare(GOLDEN, "batch_disk30_ring", ["disk30", "ring"])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["disk3", "two", "edge", "single_pixel", "empty", "full"])
def test_authors_numbers_of_the_other_cases(name: str) -> None:
    if not (SHARED / "upstream_loss.npz").is_file():
        pytest.skip(f"no {SHARED / 'upstream_loss.npz'}")
    _compare(SHARED, name, [name])


def _compare(folder: Path, name: str, parts: list[str]) -> None:
    arrays = np.load(folder / "upstream_loss.npz")
    wanted = json.loads((folder / "upstream_loss.json").read_text())[name]
    logits = torch.from_numpy(np.stack([arrays[f"logits_{part}"] for part in parts])[:, None])
    target = torch.from_numpy(np.stack([arrays[f"target_{part}"] for part in parts])[:, None])
    logits = logits.float().requires_grad_()
    loss = BoundarySensitiveLoss(reduction="batch")
    total = loss(logits, target)
    total.backward()
    boundary = loss.boundary(logits.sigmoid(), target.float())
    assert boundary.item() == pytest.approx(wanted["boundary"], rel=RELATIVE)
    assert total.item() == pytest.approx(wanted["total"], rel=RELATIVE)
    if "grad_norm" in wanted:
        assert logits.grad is not None
        assert logits.grad.norm().item() == pytest.approx(wanted["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", cases())
def test_slow_reference(name: str) -> None:
    mask = cases()[name]
    logits = np.random.default_rng(3).normal(-1, 2, mask.shape) + 3 * mask
    boundary, total = slow_loss(logits[None], mask[None])
    x, y = torch.from_numpy(logits)[None, None], torch.from_numpy(mask)[None, None]
    loss = BoundarySensitiveLoss()
    assert loss.boundary(x.sigmoid(), y.double()).item() == pytest.approx(boundary, rel=1e-12)
    assert loss(x, y).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", cases())
def test_contour(name: str) -> None:
    mask = cases()[name]
    found = contour_of(torch.from_numpy(mask)[None, None].float())[0, 0].numpy()
    np.testing.assert_array_equal(found > 0, slow_contour(mask))


def test_reductions() -> None:
    """Over the batch as the authors do; per sample is the mean of batches of one."""
    rng = np.random.default_rng(4)
    masks = np.stack([cases()["disk"], cases()["pixel"]])
    logits = rng.normal(size=masks.shape)
    x, y = torch.from_numpy(logits)[:, None], torch.from_numpy(masks)[:, None].double()
    batch = BoundarySensitiveLoss(weight=1.0, reduction="batch")(x, y).item()
    each = BoundarySensitiveLoss(weight=1.0)(x, y).item()
    alone = [slow_loss(logits[i : i + 1], masks[i : i + 1])[0] for i in range(2)]
    assert batch == pytest.approx(slow_loss(logits, masks)[0], rel=1e-12)
    assert each == pytest.approx(sum(alone) / 2, rel=1e-12)
    assert not math.isclose(batch, each, rel_tol=1e-3)


@pytest.mark.parametrize("reduction", ["batch", "sample"])
def test_gradients(reduction: str) -> None:
    mask = torch.zeros(2, 1, 6, 5, dtype=torch.float64)
    mask[0, 0, 1:5, 1:4], mask[1, 0, 0, 0] = 1, 1
    logits = torch.randn(2, 1, 6, 5, dtype=torch.float64, generator=torch.manual_seed(5))
    loss = BoundarySensitiveLoss(reduction=reduction)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: loss(x, mask), logits.requires_grad_())


def test_score_learns_the_iou_and_zero_where_nothing_bleeds() -> None:
    target = torch.zeros(2, 1, 4, 4)
    target[0, 0, :2] = 1
    logits = torch.full((2, 1, 4, 4), -1.0)
    logits[:, :, :1] = 1  # half of the first target; a false blob on the second
    assert mask_iou(logits, target).tolist() == [0.5, 0.0]
    assert score_loss(torch.tensor([0.5, 0.0]), logits, target).item() == 0
    assert score_loss(torch.tensor([0.5, 0.6]), logits, target).item() == pytest.approx(0.18)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match=r"weight 1\.5"):
        BoundarySensitiveLoss(weight=1.5)
    with pytest.raises(UsageError, match="'mean': expected batch or sample"):
        BoundarySensitiveLoss(reduction="mean")  # type: ignore[arg-type]
