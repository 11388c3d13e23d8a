"""The authors' own model, rebuilt from this project's classes, answers as theirs did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from samihs_training.adapters import insert_pr_adapters
from samihs_training.authors import authors_adapters, from_authors
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam

GOLDEN = Path(__file__).parents[1] / "golden" / "upstream_model.npz"
TOLERANCE = 1e-4  # weights and stored numbers went through other kernels than ours
AUTHORS = SamConfig(
    "authors_tiny", width=48, depth=4, heads=3, global_blocks=(1, 3), prompt_width=32,
    decoder_heads=4, decoder_mlp=64, score_hidden=32,
)  # fmt: skip


def rebuilt(*, pad_before_norm: bool = True) -> SamihsModel:
    arrays = np.load(GOLDEN)
    state = {
        name.removeprefix("sd/"): torch.from_numpy(arrays[name].astype(np.float32))
        for name in arrays.files
        if name.startswith("sd/")
    }
    options = authors_adapters(state)
    assert (options.rank, options.pad_before_norm) == (100, True)
    sam = build_sam(AUTHORS)
    insert_pr_adapters(sam, options)
    sam.load_state_dict(from_authors(state), strict=True)
    if not pad_before_norm:  # the same weights in SAM's own order
        for block in sam.image_encoder.blocks:
            norm, adapter, attention = block.attn
            block.norm1, block.attn = norm, torch.nn.Sequential(adapter, attention)
    return SamihsModel(sam, AUTHORS).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    small = torch.from_numpy(np.load(GOLDEN)["x64"])
    whole = F.interpolate(small, size=(1024, 1024), mode="bilinear", align_corners=False)
    return whole.expand(-1, 3, -1, -1)


@torch.inference_mode()
def test_embedding_and_logits_are_the_authors(image: torch.Tensor) -> None:
    golden, model = np.load(GOLDEN), rebuilt()
    embedding = model.sam.image_encoder(image)
    points, labels = torch.tensor([[[400.0, 500.0], [0, 0]]]), torch.tensor([[1, -1]])
    logits, _ = model.decode(embedding, points, labels, slice_size=1024)
    np.testing.assert_allclose(
        embedding[..., ::4, ::4].numpy(), golden["embedding"], rtol=0, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        logits[..., ::4, ::4].numpy(), golden["logits"], rtol=0, atol=TOLERANCE
    )


@torch.inference_mode()
def test_the_order_of_padding_matters(image: torch.Tensor) -> None:
    """Were it ignored, the golden embedding would be missed by far more than the tolerance."""
    embedding = rebuilt(pad_before_norm=False).sam.image_encoder(image)
    error = np.abs(embedding[..., ::4, ::4].numpy() - np.load(GOLDEN)["embedding"]).max()
    assert error > 100 * TOLERANCE
