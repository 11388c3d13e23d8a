"""Where two graphs of one model first differ: the inputs of their layers, compared by name.

A layer is a module with a weight; its name is the same in torch (``EncoderGraph``,
``SamihsModel``) and in the ONNX files. A difference that first appears in the input of a layer
arose between the previous layer and this one, or in a branch that joins there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from samihs_export.proof.cpu_session import cpu_session
from samihs_export.proof.parity import relative_difference

if TYPE_CHECKING:
    from torch import Tensor, nn

Inputs = Mapping[str, NDArray[np.floating[Any]]]
"""Layer name -> the layer's input, in order of execution."""
_KINDS = ("MatMul", "Conv", "ConvTranspose", "LayerNormalization")


@dataclass(frozen=True)
class Parting:
    """The first layer whose inputs differ."""

    layer: str
    before: str | None
    """The last layer with the same input; None if the first layer's input already differs."""
    error: float
    """Largest difference, relative to the reference's largest value."""

    def __str__(self) -> str:
        start = f"between {self.before} and" if self.before else "before"
        return f"they first differ {start} {self.layer} (relative difference {self.error:.2g})"


def first_parting(reference: Inputs, candidate: Inputs, tolerance: float) -> Parting | None:
    """The first layer present in both whose inputs differ by more than ``tolerance``."""
    before = None
    for name, expected in reference.items():
        if name not in candidate or candidate[name].size != expected.size:
            continue
        error = relative_difference(candidate[name].ravel(), expected.ravel())
        if not error <= tolerance:  # true for NaN, too
            return Parting(name, before, error)
        before = name
    return None


def inputs_of_torch(module: nn.Module, run: Callable[[], object]) -> Inputs:
    """Record the input of each layer of the module while ``run`` runs it."""
    import torch

    seen: dict[str, NDArray[np.floating[Any]]] = {}

    def keep(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, given[0].detach().double().numpy())

        return hook

    layers = [(n, each) for n, each in module.named_modules() if hasattr(each, "weight")]
    hooks = [each.register_forward_pre_hook(keep(_plain(name))) for name, each in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def inputs_of_onnx(path: Path, feeds: Mapping[str, NDArray[Any]]) -> Inputs:
    """Run a graph in ONNX Runtime with the input of each layer as an additional output."""
    model = onnx.load(path)
    layers = _layer_inputs(model.graph)
    given = {each.name for each in (*model.graph.output, *model.graph.input)}
    for value in dict.fromkeys(layers.values()):
        if value not in given:
            model.graph.output.append(onnx.ValueInfoProto(name=value))
    asked = [value for value in dict.fromkeys(layers.values()) if value not in feeds]
    with tempfile.TemporaryDirectory(prefix="samihs-layers-") as scratch:
        # Weights in a separate file: with them the graph may exceed protobuf's 2 GB limit.
        probe = Path(scratch) / path.name
        onnx.save(model, probe, save_as_external_data=True, location=f"{path.name}.data")
        answers = cpu_session(probe).run(asked, dict(feeds))
    found = {**feeds, **dict(zip(asked, answers, strict=True))}
    return {
        name: found[value]
        for name, value in layers.items()
        if found[value].dtype in (np.float16, np.float32, np.float64)
    }


def _layer_inputs(graph: onnx.GraphProto) -> dict[str, str]:
    """Layer name -> the name of its input value."""
    weights = {each.name for each in graph.initializer}
    inputs = {}
    for node in graph.node:
        layer, _, kind = node.name.partition("/")
        if kind in _KINDS and f"{layer}.weight" in weights:
            # The weight may be the first operand of a product.
            inputs[_plain(layer)] = next(each for each in node.input if each not in weights)
    return inputs


def _plain(name: str) -> str:
    """``norm1.module`` (a ``norm1`` kept in float32) -> ``norm1``."""
    return name.removesuffix(".module")
