"""Checkpoints: what a file holds, and what is never accepted (see also network/test_model.py)."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.adapters import PRConfig, insert_pr_adapters
from samihs_training.checkpoints.checkpoint import (
    load_adapters,
    load_base,
    save_adapters,
    save_base,
)
from samihs_training.checkpoints.tensorfile import read_safetensors, write_safetensors
from samihs_training.methods import trained_parameters
from samihs_training.network.growth import ADDED_LATER
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam

from .tiny import PYRAMID, TINY

ABOUT = {"preset": "tiny", "window": [-20.0, 100.0], "training_data": "random numbers"}


def trained(folder: Path) -> tuple[SamihsModel, Path, Path]:
    """A model whose adapters and decoder have moved, and its two checkpoints."""
    torch.manual_seed(1)
    base, adapters = folder / "base.safetensors", folder / "adapters.safetensors"
    sam = build_sam(TINY)
    save_base(base, sam, TINY, ABOUT)
    pr = PRConfig(rank=4)
    insert_pr_adapters(sam, pr)
    for parameter in trained_parameters(sam).values():
        nn.init.normal_(parameter, std=0.3)
    save_adapters(adapters, sam, pr, base, ABOUT)
    return SamihsModel(sam, TINY).eval(), base, adapters


def test_adapters_hold_only_what_was_trained(tmp_path: Path) -> None:
    model, _, adapters = trained(tmp_path)
    with safe_open(adapters, framework="pt") as file:
        names = set(file.keys())
    frequencies = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert names == trained_parameters(model.sam).keys() | {frequencies}
    encoder = {name for name in names if name.startswith("image_encoder.")}
    assert encoder == {name for name in encoder if name.endswith(("direction", "scale", "bias"))}
    assert not any("qkv" in name for name in names)


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    _, base, adapters = trained(tmp_path)
    with pytest.raises(CheckpointError, match="a base was expected"):
        load_base(adapters)
    with pytest.raises(CheckpointError, match="no adapter checkpoint"):
        load_adapters(base, base)


def test_checkpoints_of_before_answer_as_they_did(tmp_path: Path) -> None:
    """They lack a weight that was added later, and says nothing there."""
    torch.manual_seed(1)
    sam = build_sam(PYRAMID)
    base, adapters = tmp_path / "base.safetensors", tmp_path / "adapters.safetensors"
    save_base(base, sam, PYRAMID, ABOUT)
    before = without(base, ADDED_LATER)
    pr = PRConfig(rank=4)
    insert_pr_adapters(sam, pr)
    nn.init.normal_(sam.get_parameter(ADDED_LATER[0]))
    save_adapters(adapters, sam, pr, base, ABOUT)
    assert not load_base(base)[0].get_parameter(ADDED_LATER[0]).any()
    without(adapters, ADDED_LATER)
    assert not load_adapters(adapters, base).model.sam.get_parameter(ADDED_LATER[0]).any()
    assert before.keys() == load_base(base)[0].state_dict().keys() - set(ADDED_LATER)
    without(adapters, ["mask_decoder.evidence.out.weight"])  # which was always there
    with pytest.raises(CheckpointError, match="1 missing"):
        load_adapters(adapters, base)


def without(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The file's weights but for these, which it now lacks."""
    state, about = read_safetensors(path)
    kept = {name: each for name, each in state.items() if name not in names}
    write_safetensors(path, kept, about)
    return kept


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    """``weights_only``: a downloaded .pth must not be able to run anything."""
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (mark,)

    path = tmp_path / "sam_vit_b_evil.pth"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(CheckpointError, match="no readable PyTorch checkpoint"):
        load_base(path)
    assert not mark.exists()


def test_metas_layout_is_checked_key_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "vit_b", TINY)
    state = build_sam(TINY).state_dict()
    path = tmp_path / "sam_vit_b_tiny.pth"
    torch.save(state, path)
    sam, config, _ = load_base(path)
    assert config == TINY
    assert all(torch.equal(value, state[name]) for name, value in sam.state_dict().items())

    state.pop("mask_decoder.iou_token.weight")
    state["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, 16)
    state["extra"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_base(path)
    message = str(caught.value)
    assert "1 missing (mask_decoder.iou_token.weight)" in message
    assert "1 unexpected (extra)" in message
    assert "1 misshapen (image_encoder.pos_embed (1, 4, 4, 16) for (1, 8, 8, 16))" in message


def test_a_pth_must_say_its_size(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected vit_b, vit_l or vit_h in the name"):
        load_base(tmp_path / "sam.pth")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_base(tmp_path / "file" / "base.safetensors", build_sam(TINY), TINY, ABOUT)
