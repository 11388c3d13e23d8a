"""A model on crops of its frame: the same weights, at the places that the crops have in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from samihs_runtime.errors import UsageError
from samihs_training.data.crops import Crops
from samihs_training.methods import apply_method, make_method
from samihs_training.network.cropped import CroppedModel, crops_of
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, build_sam, preset
from tests.training.tiny import PYRAMID

WIDE = replace(PYRAMID, image_size=256, window=4)  # 16 x 16 tokens
WINDOW = torch.tensor([[-20.0, 100.0]])
HEAD = Crops(16, 8, (0, 4, 8))


def random_model(config: SamConfig = WIDE) -> SamihsModel:
    """All weights drawn, also those that start at zero."""
    torch.manual_seed(0)
    sam = build_sam(config)
    with torch.no_grad():
        for each in sam.parameters():
            each.normal_(0, 0.1)
    return SamihsModel(sam, config)


def prompts(*places: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A click at each of (column, row), with SAM's pad."""
    points = torch.tensor([[place, (0.0, 0.0)] for place in places])
    return points, torch.tensor([[1, -1]]).expand(len(places), 2)


def test_a_crop_of_everything_is_answered_as_the_slice() -> None:
    """Also with two prompts on each of two slices, a prior mask, and slices below the frame's
    size."""
    model = random_model()
    cropped = CroppedModel(model, Crops(16, 16, (0,)))
    cropped.look_at(torch.zeros(2, 2, dtype=torch.int64))
    hu = torch.randn(2, 1, 128, 128) * 30 + 40
    points, labels = prompts((40, 50), (90, 20), (64, 64), (10, 100))
    prior = torch.randn(4, 1, 128, 128)
    embeddings = [each.encode(hu, WINDOW.expand(2, 2)) for each in (model, cropped)]
    torch.testing.assert_close(embeddings[1], embeddings[0])
    answers = [
        each.decode(embedding, points, labels, prior, slice_size=128)
        for each, embedding in zip((model, cropped), embeddings, strict=True)
    ]
    torch.testing.assert_close(answers[1], answers[0])


def test_windows_are_encoded_as_in_the_whole_slice() -> None:
    """Without global blocks, tokens have the slice's own features, but for those of the windows
    that a crop's edge cuts off from their surroundings, and their neighbours (SAM's neck)."""
    model = random_model(replace(WIDE, global_blocks=()))
    hu = torch.randn(1, 1, 256, 256) * 30 + 40
    cropped = CroppedModel(model, Crops(16, 12, (0, 4)))
    cropped.look_at(torch.tensor([[0, 4]]))
    features = WIDE.prompt_width
    whole = model.encode(hu, WINDOW)[:, :features]
    ours = cropped.encode(hu[:, :, :192, 64:], WINDOW)[:, :features]
    torch.testing.assert_close(ours[..., :7, 5:], whole[..., :7, 9:])
    assert not torch.allclose(ours[..., 7:, :5], whole[..., 7:12, 4:9])


def test_positions_are_those_in_the_frame() -> None:
    """Of tokens in the encoder and the decoder, of points, and of distances in global blocks."""
    model = random_model()
    cropped = CroppedModel(model, HEAD)
    cropped.look_at(torch.tensor([[4, 8], [8, 0]]))
    position = model.sam.image_encoder.pos_embed
    assert torch.equal(cropped.sam.image_encoder.pos_embed[0], position[0, 4:12, 8:16])
    assert torch.equal(cropped.sam.image_encoder.pos_embed[1], position[0, 8:16, 0:8])
    grid = model.grid_position(1)
    assert torch.equal(cropped.grid_position(2)[1], grid[0, :, 4:12, 8:16])
    assert torch.equal(cropped.grid_position(2)[2], grid[0, :, 8:16, 0:8])
    points, labels = prompts((10, 20), (30, 5))
    moved = points + torch.tensor([[[128.0, 64.0]], [[0.0, 128.0]]])
    ours = cropped.embed_points(points, labels, 128)
    torch.testing.assert_close(ours, model.embed_points(moved, labels, 256))
    (number,) = WIDE.global_blocks[:1]
    table = model.sam.image_encoder.blocks[number].attn.rel_pos_h  # entry d + 15: distance d
    cut = cropped.sam.image_encoder.blocks[number].attn.rel_pos_h  # entry d + 7
    assert torch.equal(cut, table[8:23])


def test_training_on_crops_trains_the_model() -> None:
    """Every parameter is the model's own; what no crop shows of the positions stays."""
    model = random_model()
    cropped = CroppedModel(model, HEAD)
    assert {id(each) for each in cropped.parameters()} == {id(p) for p in model.parameters()}
    cropped.look_at(torch.tensor([[0, 0]]))
    points, labels = prompts((40, 50))
    embedding = cropped.encode(torch.randn(1, 1, 128, 128) * 30 + 40, WINDOW)
    logits, score = cropped.decode(embedding, points, labels, slice_size=128)
    (logits.square().mean() + score.square().mean()).backward()  # type: ignore[no-untyped-call]
    gradient = model.sam.image_encoder.pos_embed.grad
    assert gradient[0, :8, :8].abs().min() > 0
    assert gradient[0, 8:].abs().max() == 0
    assert model.sam.image_encoder.blocks[WIDE.global_blocks[0]].attn.rel_pos_w.grad.abs().max() > 0
    before = cropped.decode(embedding, points, labels, slice_size=128)[0]
    with torch.no_grad():
        model.sam.mask_decoder.iou_token.weight += 1
    assert not torch.equal(cropped.decode(embedding, points, labels, slice_size=128)[0], before)


@pytest.mark.parametrize("method", ["pr", "lora", "bottleneck", "vpt"])
def test_an_adapted_model_can_be_cropped(method: str) -> None:
    """Its adapters as well are the model's own, and positions are cut behind them."""
    model = random_model()
    apply_method(make_method(method, {}), model.sam)
    with torch.no_grad():
        for each in model.sam.parameters():
            each.requires_grad_().normal_(0, 0.1)
    hu = torch.randn(1, 1, 256, 256) * 30 + 40
    whole, half = CroppedModel(model, Crops(16, 16, (0,))), CroppedModel(model, HEAD)
    whole.look_at(torch.zeros(1, 2, dtype=torch.int64))
    torch.testing.assert_close(whole.encode(hu, WINDOW), model.encode(hu, WINDOW))
    half.look_at(torch.tensor([[4, 8]]))
    half.encode(hu[:, :, 64:192, 128:], WINDOW).square().mean().backward()  # type: ignore[no-untyped-call]
    assert {id(each) for each in half.parameters()} == {id(each) for each in model.parameters()}
    attention = [m for m in model.sam.image_encoder.blocks[1].modules() if hasattr(m, "rel_pos_h")]
    gradient = attention[0].rel_pos_h.grad
    assert gradient[8:23].abs().amax(1).min() > 0
    assert gradient[:8].abs().max() == gradient[23:].abs().max() == 0


def test_a_slice_may_be_larger_than_the_frame() -> None:
    """Points are those of the slice, twice the frame's size, as far as the crop shows it."""
    model = random_model()
    cropped = CroppedModel(model, HEAD)
    cropped.look_at(torch.tensor([[4, 8]]))
    points, labels = prompts((10, 20))
    ours = cropped.embed_points(points, labels, 256)
    theirs = model.embed_points(points + torch.tensor([256.0, 128.0]), labels, 512)
    torch.testing.assert_close(ours, theirs)
    large = torch.randn(1, 1, 128, 128).repeat_interleave(2, 2).repeat_interleave(2, 3) * 30 + 40
    embedding = cropped.encode(large, WINDOW)
    logits, _ = cropped.decode(embedding, points, labels, slice_size=256)
    small = cropped.encode(large[..., ::2, ::2], WINDOW)
    # A slice's pixel p lies at p * scale + 0.5 in the frame.
    again, _ = cropped.decode(small, points / 2, labels, slice_size=128)
    torch.testing.assert_close(embedding, small)
    torch.testing.assert_close(logits, again)


def test_a_mirrored_model_is_refused() -> None:
    with pytest.raises(UsageError, match="mirrored"):
        CroppedModel(random_model().mirrored(), HEAD)


@pytest.mark.parametrize("config", [WIDE, replace(WIDE, image_size=160), preset("vit_mini")])
def test_every_token_is_in_some_crop(config: SamConfig) -> None:
    window = config.patch_size * config.window
    for pixels in range(window, config.image_size, window):
        crops = crops_of(config, pixels)
        shown = {start + token for start in crops.starts for token in range(crops.side)}
        assert shown == set(range(config.grid))
    assert crops_of(WIDE, 128).starts == (0, 4, 8)
    assert crops_of(replace(WIDE, image_size=224), 128).starts == (0, 4, 6)  # 14 tokens


@pytest.mark.parametrize("pixels", [0, 32, 96, 100, 256, 512])
def test_a_crop_that_does_not_fit_is_refused(pixels: int) -> None:
    with pytest.raises(UsageError, match=f"crop = {pixels}: expected a multiple of 64 pixels"):
        crops_of(WIDE, pixels)
