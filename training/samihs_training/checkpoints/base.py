"""Base checkpoints: all weights of a SAM, ours (safetensors) or Meta's own (``.pth``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samihs_runtime.errors import CheckpointError
from samihs_training.checkpoints.tensorfile import (
    check_state,
    read_description,
    read_pth,
    read_safetensors,
    write_safetensors,
)
from samihs_training.network.frames import Frame, in_frame
from samihs_training.network.growth import completed, grown
from samihs_training.network.sam import SamConfig, build_sam, preset

_OF_META = {"training_data": "SA-1B"}
"""What is known of Meta's files, which describe nothing."""


def save_base(
    path: Path, sam: nn.Module, config: SamConfig, description: Mapping[str, Any]
) -> None:
    """Write all weights; ``description`` goes into the metadata beside the configuration."""
    about = {"kind": "base", "config": asdict(config), **description}
    write_safetensors(path, dict(sam.state_dict()), about)


def load_base(
    path: Path, frame: Frame | None = None
) -> tuple[nn.Module, SamConfig, dict[str, Any]]:
    """A SAM with a base checkpoint's weights: our safetensors, or one of Meta's ``.pth`` files.

    Args:
        path: the file. A ``.pth`` file's name must say which of Meta's three models it is.
        frame: image size and token grid, if they should differ from the base's own.

    Raises:
        CheckpointError: unreadable, or keys and shapes differ from segment-anything's own.
        UsageError: the frame is not possible with this base.
    """
    state, config, description = _read(path)
    wanted = (frame or Frame()).of(config)
    sam = build_sam(wanted)
    state = completed(state, sam.state_dict())
    if wanted != config:
        with torch.device("meta"):
            check_state(state, build_sam(config).state_dict(), path)
        state = in_frame(state, config, wanted)
    check_state(state, sam.state_dict(), path)
    sam.load_state_dict(state)
    return sam, wanted, description


def config_of_base(path: Path) -> SamConfig:
    """The configuration of a base checkpoint, without reading its weights.

    Raises:
        CheckpointError: as :func:`load_base`.
    """
    if path.suffix == ".pth":
        return _meta_preset(path)
    return _described(read_description(path), path)


def description_of_base(path: Path) -> dict[str, Any]:
    """What a base checkpoint says of its training, without reading its weights.

    Raises:
        CheckpointError: unreadable.
    """
    return dict(_OF_META) if path.suffix == ".pth" else read_description(path)


def start_from(sam: nn.Module, path: Path) -> list[str]:
    """Load into ``sam`` whatever fits from a base checkpoint, which may be of a smaller model.

    ``network/growth.py`` defines what fits.

    Returns:
        Names of the parameters that keep their values.

    Raises:
        CheckpointError: unreadable, or fewer than half of the tensors fit: another family's model.
    """
    state, _, _ = _read(path)
    wanted = sam.state_dict()
    fitting = grown(state, sam)
    if 2 * len(fitting) < len(wanted):
        raise CheckpointError(
            f"{path} does not suit this preset: {len(fitting)} of {len(wanted)} tensors fit"
        )
    sam.load_state_dict(fitting, strict=False)
    return sorted(wanted.keys() - fitting.keys())


def _read(path: Path) -> tuple[dict[str, Tensor], SamConfig, dict[str, Any]]:
    if path.suffix == ".pth":
        config = _meta_preset(path)
        state = read_pth(path)
        return state, config, {"config": asdict(config), **_OF_META}
    state, description = read_safetensors(path)
    return state, _described(description, path), description


def _described(description: Mapping[str, Any], path: Path) -> SamConfig:
    if description.get("kind") != "base":
        raise CheckpointError(
            f"{path} holds {description.get('kind', 'no SAMIHS weights')}: a base was expected"
        )
    return _config_from(description["config"], path)


def _meta_preset(path: Path) -> SamConfig:
    for name in ("vit_b", "vit_l", "vit_h"):
        if name in path.name:
            return preset(name)
    raise CheckpointError(f"{path.name}: expected vit_b, vit_l or vit_h in the name of a .pth file")


def _config_from(raw: Mapping[str, Any], path: Path) -> SamConfig:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    try:
        return SamConfig(**fields)
    except TypeError as error:
        raise CheckpointError(f"{path}: its model configuration is not ours: {error}") from error
