"""Where prompts lie, at the resolution of the mask."""

from __future__ import annotations

import torch

from samihs_training.network.click_maps import DEVIATIONS, Clicked, ClickMaps


def test_each_map_is_a_sum_of_gaussians_about_the_points_of_its_kind() -> None:
    torch.manual_seed(0)
    maps = ClickMaps(channels=2, side=16, image_size=64)
    points = torch.tensor([[[10.0, 30.0], [50.0, 20.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 0, -1]])
    centres = (torch.arange(16) + 0.5) * 4
    expected = torch.zeros(2, 16, 16)
    for (x, y), label in zip(points[0, :2].tolist(), (1, 0), strict=True):
        squares = (centres[None] - x) ** 2 + (centres[:, None] - y) ** 2
        for scale, deviation in enumerate(DEVIATIONS):
            bump = torch.exp(-squares / (2 * deviation**2))
            expected += maps.weight[label, scale, :, None, None] * bump
    assert torch.allclose(maps(points, labels)[0], expected, atol=1e-5)


def test_the_pad_lies_nowhere() -> None:
    maps = ClickMaps(channels=2, side=8, image_size=64)
    clicked = Clicked(side=8, image_size=64, deviation=4.0)
    point, pad = torch.tensor([[[30.0, 30.0]]]), torch.full((1, 1), -1)
    assert not maps(point, pad).any()
    assert not clicked(point, pad).any()


def test_foreground_clicks_alone_say_what_was_clicked() -> None:
    clicked = Clicked(side=16, image_size=64, deviation=4.0)
    points = torch.tensor([[[10.0, 30.0], [50.0, 20.0], [34.0, 34.0]]]).repeat(3, 1, 1)
    labels = torch.tensor([[1, 0, -1], [1, 1, -1], [2, 3, 0]])
    one, two, box = clicked(points, labels)
    assert torch.allclose(one.sum(), torch.tensor(1.0))
    assert divmod(int(one.argmax()), 16) == (30 // 4, 10 // 4)
    assert one[20 // 4, 50 // 4] < 1e-6  # the background click's
    assert torch.allclose(two.sum(), torch.tensor(1.0))
    assert torch.isclose(two[20 // 4, 50 // 4], two[30 // 4, 10 // 4], rtol=0.3)
    assert not box.any()
