"""Fold adapters into linear layers: PR adapters into the layer that follows, LoRA into its own.

A PR adapter is ``y = M x + b`` with a symmetric M; the linear layer (W, c) after it becomes
``(W M, c + W b)``. LoRA's update ``(alpha / r) B A`` is added to its layer's own weight. The
products are computed in float64 and rounded once, so the merged model differs from the adapted one
only by float32 rounding, and costs no more than plain SAM. Both pad orders merge exactly: in the
authors' order, ``norm1`` stays inside the window, and pad tokens are still normalised before the
merged projection.

Any other module stays in the model, is exported as it is, and is named in the report.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from samihs_training.adapters import PRAdapter, Site
from samihs_training.network.model import SamihsModel

_PROBES = 64
"""Tokens on which a layer's residual is measured; standard normal, like a LayerNorm's output."""


@dataclass(frozen=True)
class LayerResidual:
    """The numerical error of merging one layer."""

    block: int
    site: str
    """``attn`` or ``mlp`` for a PR adapter; LoRA's own layer, such as ``attn.qkv``."""
    rounding: float
    """Largest rounding error of a merged weight in float32, relative to the largest weight."""
    output: float
    """Adapted against merged layer in float32: max abs difference / max abs output."""


@dataclass(frozen=True)
class MergeReport:
    """All layers that were merged; empty for a model without adapters."""

    layers: tuple[LayerResidual, ...]
    kept: tuple[str, ...] = ()
    """Names of encoder modules that cannot be merged and are exported as they are."""

    @property
    def worst_output(self) -> float:
        """The largest relative output residual of any layer; 0 where nothing was merged."""
        return max((layer.output for layer in self.layers), default=0.0)

    def summary(self) -> dict[str, Any]:
        """As the manifest's ``merge`` field holds it."""
        return {
            "layers": len(self.layers),
            **({"kept_modules": list(self.kept)} if self.kept else {}),
            "worst_output_residual": self.worst_output,
            "residuals": [
                {
                    "layer": f"{layer.block}.{layer.site}",
                    "rounding": layer.rounding,
                    "output": layer.output,
                }
                for layer in self.layers
            ],
        }


class LowRankUpdate(Protocol):
    """The update of one LoRA layer."""

    def matrix(self) -> Tensor:
        """(alpha / r) B A in float64, [out, in]."""


@runtime_checkable
class LowRankLinear(Protocol):
    """A LoRA layer of any implementation: ``linear(x) + x update.matrix()^T``."""

    linear: nn.Linear
    update: LowRankUpdate


@torch.no_grad()
def merge(model: SamihsModel) -> tuple[SamihsModel, MergeReport]:
    """A copy of the model with every PR adapter and LoRA layer merged, and a report of the errors.

    The given model is not changed. Merging a merged model is a no-op: it returns an equal copy and
    an empty report.
    """
    merged = copy.deepcopy(model).eval()
    residuals = []
    for index, block in enumerate(merged.sam.image_encoder.blocks):
        for name, parent, layer in _low_rank_layers(block):
            linear, *residual = _added(getattr(parent, layer))
            setattr(parent, layer, linear)
            residuals.append(LayerResidual(index, name, *residual))
        for site, adapter, follower in _adapted_layers(block):
            residuals.append(LayerResidual(index, site, *_fold(adapter, follower)))
        _drop_adapters(block)
    return merged, MergeReport(tuple(residuals), tuple(_foreign(merged.sam.image_encoder)))


def _low_rank_layers(block: Any) -> list[tuple[str, Any, str]]:
    """(name such as ``attn.qkv``, parent module, attribute) of each LoRA layer of a block."""
    return [
        (f"{name}.{attribute}", parent, attribute)
        for name, parent in block.named_modules()
        for attribute, child in parent.named_children()
        if isinstance(child, LowRankLinear)
    ]


def _added(layer: LowRankLinear) -> tuple[nn.Linear, float, float]:
    """The equivalent plain layer, its rounding error, and its output residual."""
    probes = _probes(layer.linear)
    before = layer(probes)  # type: ignore[operator]
    linear = copy.deepcopy(layer.linear)
    exact = linear.weight.double() + layer.update.matrix()
    linear.weight = nn.Parameter(exact.to(linear.weight.dtype))
    return linear, relative_error(linear.weight, exact), relative_error(linear(probes), before)


def _probes(linear: nn.Linear) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROBES, linear.in_features, generator=generator).to(linear.weight)


def _foreign(encoder: Any) -> Iterator[str]:
    """Outermost modules of the blocks that are neither torch's nor segment-anything's."""
    theirs = type(encoder).__module__.rpartition(".")[0]
    foreign = [
        f"blocks.{name}"
        for name, module in encoder.blocks.named_modules()
        if not type(module).__module__.startswith(("torch.nn.", theirs))
    ]
    for name in foreign:
        if not any(name.startswith(f"{outer}.") for outer in foreign):
            yield name


def _adapted_layers(block: Any) -> Iterator[tuple[Site, PRAdapter, nn.Linear]]:
    """(site, adapter, linear layer that follows it) of one block."""
    sites: tuple[tuple[Site, str], ...] = (("attn", "qkv"), ("mlp", "lin1"))
    for site, follower in sites:
        children = list(getattr(block, site)) if _is_sequence(getattr(block, site)) else []
        for position, child in enumerate(children):
            if isinstance(child, PRAdapter):
                yield site, child, getattr(children[position + 1], follower)


def _fold(adapter: PRAdapter, linear: nn.Linear) -> tuple[float, float]:
    """Replace the linear layer's weight and bias; returns (rounding, output residual)."""
    probes = _probes(linear)
    before = linear(adapter(probes))
    weight = linear.weight.double()
    exact = weight @ adapter.matrix()
    linear.bias = nn.Parameter(_folded_bias(linear, weight @ adapter.bias.double()))
    linear.weight = nn.Parameter(exact.to(linear.weight.dtype))
    return relative_error(linear.weight, exact), relative_error(linear(probes), before)


def _folded_bias(linear: nn.Linear, shift: Tensor) -> Tensor:
    bias = shift if linear.bias is None else linear.bias.double() + shift
    return bias.to(linear.weight.dtype)


def _drop_adapters(block: Any) -> None:
    """Remove the adapters from a block; a Sequential with one module left becomes that module."""
    for site in ("attn", "mlp"):
        module = getattr(block, site)
        if _is_sequence(module):
            kept = [child for child in module if not isinstance(child, PRAdapter)]
            setattr(block, site, kept[0] if len(kept) == 1 else nn.Sequential(*kept))


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Max abs difference / max abs of the reference, computed in float64."""
    difference = (value.double() - reference.double()).abs().max()
    return float(difference / reference.double().abs().max().clamp_min(1e-30))
