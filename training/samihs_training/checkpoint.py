"""What training leaves behind: a base (all weights) and adapters (only what was trained).

Both are safetensors with a JSON description in their metadata under ``samihs``. An adapter
checkpoint names the sha256 of the base it was trained on and is refused on any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.adapters import PRAdapter, PRConfig, insert_pr_adapters
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam, preset

METADATA_KEY = "samihs"
TRAINED_PARTS = ("prompt_encoder.", "mask_decoder.")


@dataclass(frozen=True)
class LoadedAdapters:
    """A model as it was trained, adapters still in place, and what its checkpoint says."""

    model: SamihsModel
    pr: PRConfig
    description: dict[str, Any]
    """The adapter checkpoint's metadata: preset, window, data, metrics, ..."""
    base_sha256: str
    adapter_sha256: str


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trained_parameters(sam: nn.Module) -> dict[str, nn.Parameter]:
    """What the adapt stage trains, by name: adapters, prompt encoder, mask decoder.

    A D shared by all blocks stands once, under its first name.
    """
    prefixes = tuple(
        f"{name}." for name, module in sam.named_modules() if isinstance(module, PRAdapter)
    )
    return {
        name: parameter
        for name, parameter in sam.named_parameters()
        if name.startswith(TRAINED_PARTS + prefixes)
    }


def trained_state(sam: nn.Module) -> dict[str, Tensor]:
    """The trained parameters' values, and the prompt encoder's fixed random frequencies."""
    state: dict[str, Tensor] = {name: p.detach() for name, p in trained_parameters(sam).items()}
    buffers = {name: b for name, b in sam.named_buffers() if name.startswith(TRAINED_PARTS)}
    return {**state, **buffers}


def save_base(
    path: Path, sam: nn.Module, config: SamConfig, description: Mapping[str, Any]
) -> None:
    """Write all weights; ``description`` goes into the metadata beside the configuration."""
    _save(path, dict(sam.state_dict()), {"kind": "base", "config": asdict(config), **description})


def save_adapters(
    path: Path,
    sam: nn.Module,
    pr: PRConfig,
    base: Path,
    description: Mapping[str, Any],
) -> None:
    """Write only what was trained, bound to ``base`` by its hash."""
    about = {"kind": "adapters", "method": "pr", "pr": asdict(pr), "base_sha256": sha256_of(base)}
    _save(path, trained_state(sam), {**about, **description})


def load_base(path: Path) -> tuple[nn.Module, SamConfig, dict[str, Any]]:
    """A SAM with a base checkpoint's weights: our safetensors, or one of Meta's ``.pth`` files.

    Raises:
        CheckpointError: unreadable, or keys and shapes differ from segment-anything's own.
    """
    if path.suffix == ".pth":
        config = _meta_preset(path)
        state = _read_pth(path)
        description: dict[str, Any] = {"config": asdict(config), "training_data": "SA-1B"}
    else:
        state, description = read_safetensors(path)
        if description.get("kind") != "base":
            raise CheckpointError(
                f"{path} holds {description.get('kind', 'no SAMIHS weights')}: a base was expected"
            )
        config = _config_from(description["config"], path)
    sam = build_sam(config)
    check_state(state, sam.state_dict(), path)
    sam.load_state_dict(state)
    return sam, config, description


def load_adapters(adapters: Path, base: Path) -> LoadedAdapters:
    """The model as trained: base weights, adapters inserted, trained tensors loaded.

    Raises:
        CheckpointError: unreadable, made on another base, or misshapen.
    """
    state, description = read_safetensors(adapters)
    if description.get("kind") != "adapters":
        raise CheckpointError(f"{adapters} is no adapter checkpoint")
    base_sha256 = sha256_of(base) if base.is_file() else ""
    sam, config, _ = load_base(base)
    if description["base_sha256"] != base_sha256:
        raise CheckpointError(
            f"{adapters} was trained on a base with sha256 {description['base_sha256'][:12]}, "
            f"{base} has {base_sha256[:12]}: give the base it was trained on"
        )
    raw = description["pr"]
    pr = PRConfig(raw["rank"], tuple(raw["sites"]), raw["pad_before_norm"])
    insert_pr_adapters(sam, pr)
    check_state(state, trained_state(sam), adapters)
    sam.load_state_dict(state, strict=False)
    model = SamihsModel(sam, config).eval()
    return LoadedAdapters(model, pr, description, base_sha256, sha256_of(adapters))


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Raise a :class:`CheckpointError` that lists missing, unexpected and misshapen tensors."""
    missing = sorted(wanted.keys() - state.keys())
    unexpected = sorted(state.keys() - wanted.keys())
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    named = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    faults = [f"{len(names)} {kind} ({_few(names)})" for kind, names in named.items() if names]
    if faults:
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(faults)}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of one of our checkpoints."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


def _save(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {METADATA_KEY: json.dumps(description, sort_keys=True)})
        os.replace(partial, path)  # a reader sees the old file or the new one, never half
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a file that is no checkpoint
        raise CheckpointError(f"{path} is no readable PyTorch checkpoint: {error}") from error
    return state


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


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
