"""SAM's own modules, adapters by composition, and the paired decoder against SAM's own forward."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samihs_runtime.errors import CheckpointError, UsageError
from samihs_training.adapters import PRAdapter, PRConfig, insert_pr_adapters, pr_adapters
from samihs_training.checkpoints.checkpoint import (
    load_adapters,
    load_base,
    save_adapters,
    save_base,
)
from samihs_training.methods import trained_parameters
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import (
    PRESETS,
    SamConfig,
    build_sam,
    preset,
    segment_anything_modeling,
)

TINY = SamConfig(
    "tiny", width=24, depth=3, heads=2, global_blocks=(1,), image_size=64, patch_size=8, window=3,
    prompt_width=16, decoder_heads=2, decoder_mlp=32, score_hidden=16, mask_channels=8,
)  # fmt: skip
"""A grid of 8 tokens in windows of 3: every window row is padded."""


def tiny() -> Any:
    torch.manual_seed(0)
    sam = initialised(build_sam(TINY))
    with torch.no_grad():  # relative positions start at zero; make them count
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(std=0.1)
    return sam


def stirred(sam: Any) -> Any:
    """Adapters away from the identity."""
    with torch.no_grad():
        for _, _, adapter in pr_adapters(sam):
            adapter.scale.normal_(std=0.3)
            adapter.bias.normal_(std=0.3)
    return sam


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_models_modules_load_without_torchvision_and_leave_the_package_alone() -> None:
    code = (
        "import sys; from samihs_training.network.sam import segment_anything_modeling as m; m();"
        "assert 'torchvision' not in sys.modules and 'segment_anything' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_meta_s_presets_have_segment_anythings_own_keys_and_shapes() -> None:
    # segment-anything's build_sam.py, with the sizes of its vit_b.
    build: Any = __import__(
        segment_anything_modeling().__name__.replace("modeling", "build_sam"), fromlist=["x"]
    )
    with torch.device("meta"):
        for name in ("vit_b", "vit_l", "vit_h"):
            theirs = build.sam_model_registry[name]().state_dict()
            ours = build_sam(preset(name)).state_dict()
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("pad_before_norm", [False, True])
def test_untrained_adapters_change_nothing_where_no_window_is_padded(pad_before_norm: bool) -> None:
    torch.manual_seed(0)
    sam: Any = build_sam(replace(TINY, window=4))
    before = sam.image_encoder(image())
    insert_pr_adapters(sam, PRConfig(rank=5, pad_before_norm=pad_before_norm))
    torch.testing.assert_close(sam.image_encoder(image()), before, rtol=0, atol=1e-6)


def test_an_adapter_is_its_matrix() -> None:
    torch.manual_seed(0)
    adapter = PRAdapter(nn.Parameter(torch.randn(6, 4)))
    with torch.no_grad():
        adapter.scale.normal_()
        adapter.bias.normal_()
    x = torch.randn(3, 5, 6)
    expected = x.double() @ adapter.matrix().mT + adapter.bias.double()
    torch.testing.assert_close(adapter(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_one_direction_serves_all_blocks_of_a_site() -> None:
    sam = tiny()
    insert_pr_adapters(sam, PRConfig(rank=5))
    directions = {site: {id(a.direction) for _, s, a in pr_adapters(sam) if s == site}
                  for site in ("attn", "mlp")}  # fmt: skip
    assert [len(ids) for ids in directions.values()] == [1, 1]
    assert directions["attn"] != directions["mlp"]


def test_vit_b_trains_174432_adapter_parameters() -> None:
    with torch.device("meta"):
        sam = build_sam(preset("vit_b"))
        insert_pr_adapters(sam, PRConfig())
    adapters = {id(p): p.numel() for _, _, a in pr_adapters(sam) for p in a.parameters()}
    assert sum(adapters.values()) == 174_432
    trained = trained_parameters(sam)
    assert not any("norm" in name and "blocks" in name and "image_enc" in name for name in trained)
    others = sum(p.numel() for n, p in trained.items() if not n.startswith("image_encoder"))
    assert sum(p.numel() for p in trained.values()) == 174_432 + others


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_paired_decoder_is_sams_own_for_each_image(box: bool, with_prior: bool) -> None:
    sam = tiny()
    model = SamihsModel(sam, TINY).eval()
    embedding = sam.image_encoder(image())
    points = torch.tensor([[[5.0, 9.0], [40.0, 30.0]], [[50.0, 60.0], [3.0, 3.0]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    boxes = torch.tensor([[2.0, 3.0, 30.0, 40.0], [10.0, 10.0, 60.0, 50.0]])
    prior = torch.randn(2, 1, 32, 32) if with_prior else None
    pad = torch.zeros(2, 1, 2)
    ours_points = torch.cat([points, boxes.view(2, 2, 2) if box else pad], 1)
    kinds = torch.tensor([[2, 3]] * 2 if box else [[-1]] * 2)
    with torch.no_grad():
        logits, scores = model.decode(
            embedding, ours_points, torch.cat([labels, kinds], 1), prior, slice_size=64
        )
        for i in range(2):
            sparse, dense = sam.prompt_encoder(
                points=(points[i : i + 1], labels[i : i + 1]),
                boxes=boxes[i : i + 1] if box else None,
                masks=None if prior is None else prior[i : i + 1],
            )
            wanted, score = sam.mask_decoder(
                image_embeddings=embedding[i : i + 1],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            torch.testing.assert_close(logits[i : i + 1], wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scores[i], score[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pad_before_norm", [False, True])
def test_a_checkpoint_gives_the_trained_model_back(tmp_path: Path, pad_before_norm: bool) -> None:
    sam = tiny()
    base, adapters = tmp_path / "base.safetensors", tmp_path / "adapters.safetensors"
    save_base(base, sam, TINY, {})
    pr = PRConfig(rank=5, pad_before_norm=pad_before_norm)
    insert_pr_adapters(sam, pr)
    stirred(sam)
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight.add_(1)
    save_adapters(adapters, sam, pr, base, {"window": [-20, 100]})
    loaded = load_adapters(adapters, base)
    assert loaded.pr == pr
    assert loaded.description["window"] == [-20, 100]
    for name, tensor in sam.state_dict().items():
        assert torch.equal(tensor, loaded.model.sam.state_dict()[name]), name


def test_a_checkpoint_on_another_base_is_refused(tmp_path: Path) -> None:
    sam = tiny()
    save_base(tmp_path / "base.safetensors", sam, TINY, {})
    save_base(tmp_path / "other.safetensors", sam, TINY, {"note": "another file"})
    insert_pr_adapters(sam, PRConfig(rank=5))
    save_adapters(
        tmp_path / "a.safetensors", sam, PRConfig(rank=5), tmp_path / "base.safetensors", {}
    )
    with pytest.raises(CheckpointError, match="trained on a base with sha256"):
        load_adapters(tmp_path / "a.safetensors", tmp_path / "other.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for name in ("text.safetensors", "sam_vit_b.pth"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(CheckpointError):
            load_base(tmp_path / name)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_base(tmp_path / "absent.safetensors")


def test_a_pth_with_other_keys_lists_them(tmp_path: Path) -> None:
    torch.save({"surprise": torch.zeros(1)}, tmp_path / "sam_vit_b_x.pth")
    with pytest.raises(CheckpointError, match=r"314 missing .* 1 unexpected \(surprise\)"):
        load_base(tmp_path / "sam_vit_b_x.pth")


def test_unknown_presets_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="vit_mini"):
        preset("vit_t")
    with pytest.raises(UsageError, match="multiple"):
        replace(PRESETS["vit_b"], heads=7)
    with pytest.raises(UsageError, match="global blocks"):
        replace(PRESETS["vit_b"], global_blocks=(12,))
