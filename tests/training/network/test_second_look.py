"""The second look at a mask: region competition, written as one product, begun as nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samihs_training.network.second_look import MARGIN, Regions, Review, SecondLook, regions


def square_mask(side: int, rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., rows, columns] = 1.0
    return mask


def place(side: int, row: int, column: int) -> Tensor:
    where = torch.zeros(1, side, side)
    where[0, row, column] = 1.0
    return where


def spelled_out(look: SecondLook, features: Tensor, first: Regions) -> Tensor:
    """The formula of the class's docstring, difference by difference."""
    share = first.maps[:, :1]
    about = nn.functional.avg_pool2d(share, 5, stride=1, padding=2)
    hidden = look.figures(first.figures)[..., None, None]
    hidden = hidden + torch.einsum("hc,bcyx->bhyx", look.share, torch.cat([share, about], 1))
    for region, mean in enumerate(first.means(features).unbind(1)):
        apart = features - mean[..., None, None]
        hidden = hidden + torch.einsum("hd,bdyx->bhyx", look.difference[:, region], apart)
        hidden = hidden + torch.einsum("hd,bdyx->bhyx", look.square[:, region], apart**2)
    units = hidden.relu()
    seen = nn.functional.conv2d(units, look.neighbours.weight, look.neighbours.bias, padding=1)
    own = torch.einsum("oh,bhyx->boyx", look.out.weight[..., 0, 0], units) + look.out.bias
    return own + torch.einsum("oh,bhyx->boyx", look.neighbours_out.weight[..., 0, 0], seen.relu())


def test_regions_are_the_mask_a_ring_around_it_and_the_click() -> None:
    mask = square_mask(24, slice(8, 12), slice(9, 14))
    inside, around, clicked = regions(mask, place(24, 10, 11)).maps[0]
    assert torch.equal(inside, mask[0, 0])
    reached = square_mask(24, slice(8 - MARGIN, 12 + MARGIN), slice(9 - MARGIN, 14 + MARGIN))
    assert torch.equal(around, (reached - mask)[0, 0])
    assert clicked.sum() == clicked[10, 11] == 1


def test_means_and_figures_are_those_of_each_region() -> None:
    features = torch.zeros(1, 2, 24, 24)
    features[:, 0, 8:12, 9:14] = 3.0
    features[:, 1] = -2.0
    sure = regions(square_mask(24, slice(8, 12), slice(9, 14)), place(24, 10, 11))
    inside, around, clicked = sure.means(features)[0]
    assert torch.allclose(inside, torch.tensor([3.0, -2.0]), rtol=0.02)
    assert torch.allclose(around, torch.tensor([0.0, -2.0]), atol=0.02)
    assert torch.allclose(clicked / clicked[1], torch.tensor([-1.5, 1.0]))
    unsure = regions(0.5 * square_mask(24, slice(8, 12), slice(9, 14)), place(24, 10, 11))
    assert sure.figures[0, 0] > 1.8 * unsure.figures[0, 0]
    assert sure.figures[0, 1] > unsure.figures[0, 1]


@torch.no_grad()
def test_one_product_says_what_all_the_differences_say() -> None:
    torch.manual_seed(0)
    look = SecondLook(5, 7)
    for each in (look.out.weight, look.out.bias, look.neighbours_out.weight):
        nn.init.normal_(each)
    features = torch.randn(3, 5, 12, 12) + 4.0
    first = regions(torch.rand(3, 1, 12, 12), torch.rand(3, 12, 12) / 144)
    assert torch.allclose(look(features, first), spelled_out(look, features, first), atol=2e-4)


@torch.no_grad()
def test_a_region_without_cells_says_nothing() -> None:
    """A box alone: nothing was clicked."""
    torch.manual_seed(0)
    look = SecondLook(5, 7)
    nn.init.normal_(look.out.weight)
    features = torch.randn(2, 5, 12, 12)
    first = regions(torch.rand(2, 1, 12, 12), torch.zeros(2, 12, 12))
    answer = look(features, first)
    look.difference[:, 2] = look.square[:, 2] = 9.0
    assert torch.equal(look(features, first), answer)
    look.square[:, 0] = 9.0
    assert not torch.allclose(look(features, first), answer)


@torch.no_grad()
def test_what_is_nearer_to_the_mask_than_to_its_surroundings_can_be_taken() -> None:
    """Chan and Vese's rule is one setting of the weights."""
    look = SecondLook(1, 2)
    for each in look.parameters():
        each.zero_()
    look.square[0, 0] = look.square[1, 1] = 1.0  # (f - inside)^2 and (f - around)^2
    look.out.weight[0, :, 0, 0] = torch.tensor([-1.0, 1.0])
    blood = square_mask(24, slice(6, 18), slice(6, 18))
    found = square_mask(24, slice(8, 20), slice(8, 20))  # shifted: a part missed, a part too much
    answer = look(blood + 0.1 * torch.sin(torch.arange(24.0)), regions(found, place(24, 12, 12)))
    assert torch.equal(answer > 0, blood > 0)


@torch.no_grad()
def test_a_pixel_of_noise_within_blood_can_be_kept() -> None:
    """A unit for blood, and the mean of it about each pixel."""
    look = SecondLook(1, 1)
    for each in look.parameters():
        each.zero_()
    look.difference[0, 1] = 1.0  # f - around, which is blood where it is above 0
    look.neighbours.weight.fill_(1 / 9)
    look.neighbours_out.weight.fill_(1.0)
    look.out.bias.fill_(-0.5)
    blood = square_mask(24, slice(6, 18), slice(6, 18))
    noisy = blood.clone()
    noisy[..., 12, 12] = 0.0
    answer = look(noisy, regions(blood, place(24, 10, 10))) > 0
    assert answer[0, 0, 12, 12]
    assert answer[0, 0, 6:18, 6:18].sum() == 12 * 12 - 4  # the square's corners alone are lost
    assert not answer[blood == 0].any()


def test_it_begins_as_nothing_and_takes_the_first_mask_as_it_is() -> None:
    torch.manual_seed(0)
    review = Review(3, 2)
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    cells, fine = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 16, 16)
    where, fine_where = torch.full((2, 8, 8), 1 / 64), torch.full((2, 16, 16), 1 / 256)
    assert torch.equal(review(logits, cells, fine, where, fine_where), logits)
    for look in (review.cells, review.fine):
        nn.init.normal_(look.out.weight)
        nn.init.normal_(look.neighbours_out.weight)
    review(logits, cells, fine, where, fine_where).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.ones_like(logits))
