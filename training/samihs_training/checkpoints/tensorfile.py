"""Files of tensors: reading one runs no code from it, and none is left half written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.output import output_path

METADATA_KEY = "samihs"
"""Where a safetensors file of ours keeps its description, as JSON."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of one of our checkpoints."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _description(file)  # noqa: SIM118


def read_description(path: Path) -> dict[str, Any]:
    """The description alone, without reading the tensors."""
    with _opened(path) as file:
        return _description(file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


def _description(file: Any) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    return described


def write_safetensors(
    path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write tensors and their description: a reader sees the old file or the new one, whole.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        with output_path(path) as partial:
            save_file(tensors, partial, {METADATA_KEY: json.dumps(description, sort_keys=True)})
    except SafetensorError as error:  # how its writer reports a full disk
        raise OutputError(f"cannot write {path}: {error}") from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state with ``torch.save``, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with output_path(path) as partial:
            torch.save(dict(state), partial)
    except RuntimeError as error:  # how torch's writer reports a full disk
        raise OutputError(f"cannot write {path}: {error}") from error


@contextmanager
def restored(path: Path, frozen: str, device: torch.device) -> Iterator[dict[str, Any] | None]:
    """What :func:`write_state` wrote there, to be restored in the body; None if there is no file.

    ``frozen``: the expected entry of that name, which identifies what it was trained on.

    Raises:
        CheckpointError: unreadable, trained on something else, or it cannot be restored.
    """
    if not path.is_file():
        yield None
        return
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["frozen"] != frozen:
            raise ValueError("it was trained on another base, or by another number of processes")
        yield state
    except Exception as error:  # torch raises many kinds on a file that is not its own
        raise CheckpointError(
            f"{path} cannot be resumed from ({error}): delete it to begin the stage again"
        ) from error


def read_pth(path: Path) -> dict[str, Tensor]:
    """The state dict of a PyTorch file, read with ``weights_only``, so no code in it runs."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a file that is no checkpoint
        raise CheckpointError(f"{path} is no readable PyTorch checkpoint: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names with a tensor each")
    return state


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


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
