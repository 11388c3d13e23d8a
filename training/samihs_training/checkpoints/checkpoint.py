"""What training leaves behind: a base (all weights) and adapters (only what was trained).

Both are safetensors with a JSON description in their metadata under ``samihs``. An adapter
checkpoint names the method it was trained with and the sha256 of the base it was trained on; on any
other base it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from samihs_runtime.bundle import sha256_of
from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.errors import BundleError, CheckpointError
from samihs_training.adapters import PRConfig
from samihs_training.checkpoints.base import load_base, save_base
from samihs_training.checkpoints.tensorfile import (
    check_state,
    read_safetensors,
    write_safetensors,
)
from samihs_training.config import DataConfig
from samihs_training.methods import (
    Method,
    ParameterRefactoring,
    count_by_part,
    describe_method,
    make_method,
)
from samihs_training.methods.base import HEADS
from samihs_training.network.frames import Frame
from samihs_training.network.growth import completed
from samihs_training.network.model import SamihsModel

__all__ = ["LoadedAdapters", "load_adapters", "load_base", "save_adapters", "save_base"]


@dataclass(frozen=True)
class LoadedAdapters:
    """A model as it was trained, with its adapters in place, and its checkpoint's description."""

    model: SamihsModel
    method: Method
    description: dict[str, Any]
    """The adapter checkpoint's metadata: preset, window, data, metrics, ..."""
    base_sha256: str
    adapter_sha256: str

    @property
    def window(self) -> WindowRule:
        """The rule that gives a slice's window: two HU, or a rule in the manifest's own form.

        Raises:
            CheckpointError: the checkpoint has no window, or not a valid one.
        """
        raw: Any = self.description.get("window")
        try:
            if isinstance(raw, Mapping):
                return WindowRule(str(raw["rule"]), float(raw["low"]), float(raw["high"]))
            low, high = raw
            return WindowRule("fixed", float(low), float(high))
        except (KeyError, TypeError, ValueError, BundleError) as error:
            raise CheckpointError(
                f"the adapter checkpoint's window is {raw!r}: expected two HU, or a rule, low and "
                "high"
            ) from error

    @property
    def slice_size(self) -> int:
        """Rows and columns that slices are resized to before the model sees them: as the data set
        was on which it was trained. Phantoms have the default."""
        data = self.description.get("recipe", {}).get("data") or {}
        return int(data.get("size", DataConfig.size))

    @property
    def pr(self) -> PRConfig | None:
        """The PR adapters' options; None where another method was used."""
        return self.method.config if isinstance(self.method, ParameterRefactoring) else None


def save_adapters(
    path: Path,
    sam: nn.Module,
    method: Method | PRConfig,
    base: Path,
    description: Mapping[str, Any],
    frame: Frame | None = None,
) -> None:
    """Write only what was trained, bound to ``base`` by its hash.

    Args:
        path: the file; an older one is replaced atomically.
        sam: with the method's layers in place.
        method: what was trained; PR options on their own stand for the PR method.
        base: the base checkpoint that the training started from.
        description: goes into the metadata: preset, window, data, metrics, ...
        frame: the image size and token grid that the base was loaded with.
    """
    method = _as_method(method)
    about = {
        "kind": "adapters",
        **describe_method(method),
        "trained_parameters": count_by_part(sam, method.trained(sam)),
        "base_sha256": sha256_of(base),
        "frame": asdict(frame or Frame()),
    }
    write_safetensors(path, trained_state(sam, method), {**description, **about})


def load_adapters(adapters: Path, base: Path) -> LoadedAdapters:
    """The model as trained: base weights, adapters inserted, trained tensors loaded.

    Raises:
        CheckpointError: unreadable, trained on another base, or with tensors that do not fit.
    """
    state, description = read_safetensors(adapters)
    if description.get("kind") != "adapters":
        raise CheckpointError(f"{adapters} is no adapter checkpoint")
    base_sha256 = sha256_of(base) if base.is_file() else ""
    sam, config, _ = load_base(base, Frame(**description.get("frame", {})))
    if description["base_sha256"] != base_sha256:
        raise CheckpointError(
            f"{adapters} was trained on a base with sha256 {description['base_sha256'][:12]}, "
            f"{base} has {base_sha256[:12]}: give the base it was trained on"
        )
    method = _recorded_method(description)
    method.insert(sam)
    state = completed(state, trained_state(sam, method))
    check_state(state, trained_state(sam, method), adapters)
    sam.load_state_dict(state, strict=False)
    model = SamihsModel(sam, config).eval()
    return LoadedAdapters(model, method, description, base_sha256, sha256_of(adapters))


def trained_state(sam: nn.Module, method: Method) -> dict[str, Tensor]:
    """The trained parameters' values, and what else belongs to prompt encoder and decoder: fixed
    random frequencies, the masks' threshold."""
    trained = {name: parameter.detach() for name, parameter in method.trained(sam).items()}
    buffers = {name: each for name, each in sam.named_buffers() if name.startswith(HEADS)}
    return {**trained, **buffers}


def _as_method(method: Method | PRConfig) -> Method:
    return method if isinstance(method, Method) else ParameterRefactoring(**asdict(method))


def _recorded_method(description: Mapping[str, Any]) -> Method:
    """Checkpoints before version 0.2 knew one method and kept its options under ``pr``."""
    options = description["options"] if "options" in description else description["pr"]
    return make_method(description["method"], options)
