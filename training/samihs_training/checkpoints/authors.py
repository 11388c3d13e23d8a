"""The SAMIHS authors' own checkpoints: their parameter names, and their order of padding.

Their adapters stand beside SAM's blocks, ours inside them (``adapters.py``); the tensors are the
same. Their code pads the attention windows before it normalises: ``pad_before_norm``.

:func:`import_authors` turns one of their files into a base and an adapter checkpoint, which can be
trained further, exported and served like any others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from samihs_runtime.bundle import sha256_of
from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.adapters import PRConfig
from samihs_training.checkpoints.checkpoint import load_adapters, save_adapters, save_base
from samihs_training.checkpoints.tensorfile import check_state, read_pth
from samihs_training.methods import ParameterRefactoring
from samihs_training.network.sam import PRESETS, SamConfig, build_sam
from samihs_training.training_data import UNKNOWN

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.(.+)")
_DECODER_LAYER = re.compile(r"mask_decoder\.transformer\.layers\.(\d+)\.")
_ADAPTERS = {"attn_adapter": "attn.1", "mlp_adapter": "mlp.0"}
_VALUES = {"adapter_rescale": "scale", "adpater_bias": "bias"}  # their spelling
_INSIDE = {"norm1": "attn.0", "attn": "attn.2", "mlp": "mlp.1"}
_SHARED = {"att_down_projection": "attn.1.direction", "mlp_down_projection": "mlp.0.direction"}


WINDOW = {"rule": "percentiles", "low": 0.05, "high": 99.5}
"""Percentiles of each slice to which the authors' data loader clips before scaling to [0, 1]."""


@dataclass(frozen=True)
class ImportedAuthors:
    """The two checkpoints that an import wrote."""

    base: Path
    adapters: Path
    config: SamConfig


def import_authors(
    file: Path, out: Path, *, decoder_heads: int = 8, overwrite: bool = False
) -> ImportedAuthors:
    """Write ``base.safetensors`` and ``adapters.safetensors`` into ``out``.

    Args:
        file: a ``.pth`` of the authors' training: the whole model's state dict.
        out: folder; created if needed.
        decoder_heads: attention heads of the mask decoder, the one size that cannot be read from
            the tensors; 8 in all of Meta's models.
        overwrite: replace existing checkpoints.

    Raises:
        CheckpointError: unreadable, or not a state dict of the authors' model.
        OutputError: ``out`` holds checkpoints already, or cannot be written.
    """
    base, adapters = out / "base.safetensors", out / "adapters.safetensors"
    for path in (base, adapters):
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists: choose another --out, or give --overwrite")
    raw = {name.removeprefix("module."): tensor for name, tensor in read_pth(file).items()}
    try:
        config = replace(authors_config(raw), decoder_heads=decoder_heads)
        method = ParameterRefactoring(**asdict(authors_adapters(raw)))
    except KeyError as error:
        raise CheckpointError(
            f"{file} is no checkpoint of the SAMIHS authors' code: it has no {error.args[0]}"
        ) from error
    plain = {name: tensor.float() for name, tensor in raw.items() if not is_adapter(name)}
    sam = build_sam(config)
    check_state(plain, sam.state_dict(), file)
    sam.load_state_dict(plain)
    about = {
        "preset": config.name,
        "training_data": "as the authors of SAMIHS trained it; the file does not say on what",
        "data": {UNKNOWN: True},
        "window": WINDOW,
        "origin": {"file": file.name, "sha256": sha256_of(file)},
    }
    save_base(base, sam, config, about)
    method.insert(sam)
    adapted = from_authors(raw)
    check_state(adapted, sam.state_dict(), file)
    sam.load_state_dict(adapted)
    save_adapters(adapters, sam, method, base, about)
    load_adapters(adapters, base)  # what was written is what a user will load
    return ImportedAuthors(base, adapters, config)


def is_adapter(name: str) -> bool:
    """Whether one of their tensors belongs to an adapter rather than to SAM."""
    inside = name.removeprefix("image_encoder.")
    return inside in _SHARED or any(f".{each}." in name for each in _ADAPTERS)


def authors_config(state: Mapping[str, Tensor]) -> SamConfig:
    """The sizes of the SAM inside, read from its tensors; a preset if all are equal.

    The number of the mask decoder's heads shows in no tensor's shape: segment-anything's 8 are
    assumed. Raises KeyError if the state dict is not one of theirs.
    """
    config = _config_of(state)
    same = [each for each in PRESETS.values() if config == replace(each, name=config.name)]
    return same[0] if same else config


def _config_of(state: Mapping[str, Tensor]) -> SamConfig:
    encoder, decoder = "image_encoder.", "mask_decoder."
    _, grid, _, width = state[f"{encoder}pos_embed"].shape
    patch = state[f"{encoder}patch_embed.proj.weight"].shape[-1]
    depth = _depth(state, _BLOCK)
    tables = [state[f"{encoder}blocks.{block}.attn.rel_pos_h"].shape for block in range(depth)]
    is_global = [length == 2 * grid - 1 for length, _ in tables]
    windows = {(length + 1) // 2 for length, _ in tables if length != 2 * grid - 1}
    return SamConfig(
        "authors",
        width=width,
        depth=depth,
        heads=width // tables[0][1],
        global_blocks=tuple(block for block in range(depth) if is_global[block]),
        image_size=grid * patch,
        patch_size=patch,
        window=windows.pop() if windows else grid,
        prompt_width=state[f"{encoder}neck.0.weight"].shape[0],
        decoder_depth=_depth(state, _DECODER_LAYER),
        decoder_mlp=state[f"{decoder}transformer.layers.0.mlp.lin1.weight"].shape[0],
        score_hidden=state[f"{decoder}iou_prediction_head.layers.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )


def _depth(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int:
    return 1 + max((int(match[1]) for match in map(pattern.match, state) if match), default=-1)


def authors_adapters(state: Mapping[str, Tensor]) -> PRConfig:
    """The options that the authors' state dict was trained with; KeyError if it is not theirs."""
    return PRConfig(rank=state["image_encoder.att_down_projection"].shape[1], pad_before_norm=True)


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under the names of a SAM with our PR adapters, ``float32``."""
    depth = _depth(state, _BLOCK)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for new in _new_names(name, depth):
            # Their scale is [1, r].
            renamed[new] = (tensor[0] if new.endswith(".scale") else tensor).float()
    return renamed


def _new_names(name: str, depth: int) -> list[str]:
    """The names here of one of their tensors; a shared D appears once in every block."""
    shared = _SHARED.get(name.removeprefix("image_encoder."))
    if shared is not None:
        return [f"image_encoder.blocks.{block}.{shared}" for block in range(depth)]
    match = _BLOCK.match(name)
    if match is None:
        return [name]
    part, _, rest = match[2].partition(".")
    if part in _ADAPTERS:
        inside = f"{_ADAPTERS[part]}.{_VALUES[rest]}"
    else:
        inside = f"{_INSIDE.get(part, part)}.{rest}"
    return [f"image_encoder.blocks.{match[1]}.{inside}"]
