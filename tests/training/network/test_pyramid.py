"""The convolutional pyramid and what of it goes past the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samihs_runtime.errors import UsageError
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.pyramid import Channels, Pyramid, compile_encoder, pack, unpack
from samihs_training.network.sam import build_sam, preset
from tests.training.tiny import PYRAMID


def test_tokens_have_the_shape_of_sams_patch_embedding() -> None:
    pyramid = Pyramid(width=16, fine_width=4, channels=Channels(8, 2, 3))
    levels = pyramid.levels(torch.zeros(2, 3, 64, 32))
    assert [each.shape[1:] for each in levels] == [(4, 32, 16), (8, 16, 8), (16, 8, 4)]
    assert pyramid(torch.zeros(2, 3, 64, 32)).shape == (2, 4, 2, 16)
    packed = pyramid.packed(torch.zeros(2, 8, 4, 2), levels)
    assert packed.shape == (2, 8 + 16 * 2 + 64 * 3, 4, 2)


def test_packing_is_undone_exactly_and_keeps_each_cell_at_its_token() -> None:
    parts = torch.randn(2, 5, 3, 3), torch.randn(2, 2, 12, 12), torch.randn(2, 1, 24, 24)
    packed = pack(*parts)
    assert packed.shape == (2, 5 + 16 * 2 + 64, 3, 3)
    for part, given in zip(unpack(packed, Channels(5, 2, 1)), parts, strict=True):
        assert torch.equal(part, given)
    token = packed[0, 5 : 5 + 32, 1, 2].reshape(2, 4, 4)  # what lies beside token (1, 2)
    assert torch.equal(token, parts[1][0, :, 4:8, 8:12])


@pytest.mark.parametrize(
    ("channel", "reach"),
    [
        pytest.param(PYRAMID.prompt_width, (2 * 7 - 1, 2 * 9 + 2), id="detail, and its neighbours"),
        pytest.param(PYRAMID.embedding_channels - 1, (23, 23), id="fine, a cell alone"),
    ],
)
def test_what_goes_past_the_encoder_changes_the_mask_only_where_it_lies(
    channel: int, reach: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID).eval()
    embedding = torch.randn(1, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    points, labels = torch.tensor([[[9.0, 9.0], [0, 0]]]), torch.tensor([[1, -1]])
    moved = embedding.clone()
    moved[0, channel, 2, 2] += 5.0  # the first cell of token (2, 2), or its last mask cell
    with torch.no_grad():
        one, _ = model.decode(embedding, points, labels, slice_size=64)
        other, _ = model.decode(moved, points, labels, slice_size=64)
    changed = (one != other)[0, 0].nonzero()
    assert changed.amin(0).tolist() == [reach[0]] * 2
    assert changed.amax(0).tolist() == [reach[1]] * 2


def test_prompts_of_a_slice_share_its_embedding() -> None:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID).eval()
    embedding = torch.randn(2, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    points, labels = torch.rand(4, 1, 2) * 60, torch.ones(4, 1)
    with torch.no_grad():
        together, scores = model.decode(embedding, points, labels, slice_size=64)
        for prompt in range(4):
            one = slice(prompt, prompt + 1)
            alone, score = model.decode(
                embedding[prompt // 2, None], points[one], labels[one], slice_size=64
            )
            assert torch.allclose(together[one], alone, atol=1e-5)
            assert torch.allclose(scores[one], score, atol=1e-5)


def test_a_fresh_model_answers_background_everywhere() -> None:
    model = SamihsModel(initialised(build_sam(PYRAMID)), PYRAMID).eval()
    points, labels = torch.tensor([[[9.0, 9.0], [0, 0]]]), torch.tensor([[1, -1]])
    with torch.no_grad():
        embedding = model.encode(torch.full((1, 1, 64, 64), 40.0), torch.tensor([[-20.0, 100.0]]))
        logits, _ = model.decode(embedding, points, labels, slice_size=64)
    assert embedding.shape[1:] == (PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    assert logits.shape[-1] == PYRAMID.mask_size
    assert (logits < 0).float().mean() > 0.9


def test_a_pyramid_has_one_stride() -> None:
    with pytest.raises(UsageError, match="patch size 8"):
        replace(preset("vit_b"), patch_size=8, pyramid_width=24)


@pytest.fixture
def compilable(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SamihsModel]:
    """A model with a pyramid, where torch's C++ compiler is the parameter; nothing is cached."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch.manual_seed(0)
    with torch._inductor.config.patch({"cpp.cxx": (request.param,)}):
        yield SamihsModel(build_sam(PYRAMID), PYRAMID)


def answers_and_graphs(model: SamihsModel) -> tuple[torch.Tensor, int]:
    """An embedding, and how many graphs torch compiled for it."""
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    torch.manual_seed(1)
    hu, window = 40 + 20 * torch.randn(1, 1, 64, 64), torch.tensor([[-20.0, 100.0]])
    with torch.no_grad():
        return model.encode(hu, window), stats["unique_graphs"] - before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's compiler, in torch
@pytest.mark.parametrize("compilable", ["g++"], indirect=True)
def test_a_compiled_pyramid_answers_as_it_did(compilable: SamihsModel) -> None:
    eager, none = answers_and_graphs(compilable)
    compile_encoder(compilable.sam.image_encoder)
    compiled, graphs = answers_and_graphs(compilable)
    assert (none, graphs) == (0, 2)  # down, and up again
    assert torch.allclose(compiled, eager, rtol=0, atol=1e-4 * eager.abs().max().item())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # pytest.warns says it again
@pytest.mark.parametrize("compilable", ["none such"], indirect=True)
def test_without_a_compiler_training_goes_on(compilable: SamihsModel) -> None:
    eager, _ = answers_and_graphs(compilable)
    with pytest.warns(UserWarning, match=r"without compile: .*No working C\+\+ compiler"):
        compile_encoder(compilable.sam.image_encoder)
    again, graphs = answers_and_graphs(compilable)
    assert graphs == 0
    assert torch.equal(again, eager)
