"""Several sites' adapters over one base: which tensors differ, and how they are exchanged.

Sites share the base; what training touched differs: the linear layers that adapters are merged
into, and the whole decoder. Only these are marked refittable, under the names that they have in
the ONNX file, so that all else keeps its fused, constant weights. An exchange is the same set of
tensors whether it is made in an engine (TensorRT's refitter) or in the ONNX file: the latter needs
no GPU, and is what the parity gates are run on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from samihs_runtime.errors import ExportError

Tensors = Mapping[str, NDArray[np.generic]]
"""Initializer name -> value, in the graph's own type."""

_MERGED = re.compile(r"blocks\.\d+\.(attention\.qkv|mlp\.lin1)\.(weight|bias)")
"""The encoder's: what PR adapters and LoRA are merged into, biases included."""
_NEVER_TRAINED = re.compile(
    r"points\.frequencies|(.+\.)?(click_maps|(fine_)?clicked)\.(centres|deviations?)"
)
"""Named and of the decoder, but drawn once for the base, or fixed."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def refittable(graph: onnx.GraphProto) -> list[str]:
    """Names of the tensors that one site's training changes, in the graph's order.

    Of an encoder (a graph with an input ``hu``) the merged layers; of a decoder every tensor with a
    name of its own, such as ``transformer.layers.0.norm1.weight``; never the exporter's constants.
    """
    floats = [each for each in graph.initializer if each.data_type in _FLOATS]
    named = [each.name for each in floats if not each.name.startswith("val_")]
    if any(each.name == "hu" for each in graph.input):
        return [name for name in named if _MERGED.fullmatch(name)]
    named = [name for name in named if not _NEVER_TRAINED.fullmatch(name)]
    return [name for name in named if "." in name or name in ("tokens", "no_mask")]


def site_tensors(path: Path) -> Tensors:
    """One site's refittable tensors, read from its graph.

    Raises:
        ExportError: the graph names none: it was written by an older version.
    """
    graph = onnx.load(path).graph
    values = {each.name: each for each in graph.initializer}
    names = refittable(graph)
    if not names:
        raise ExportError(f"{path}: no tensor of it can be exchanged; export the bundle again")
    return {name: numpy_helper.to_array(values[name]) for name in names}


def replace_tensors(source: Path, tensors: Tensors, out: Path) -> None:
    """Write ``source`` with these tensors in place of its own.

    Raises:
        ExportError: a tensor that is not refittable, one that is missing, or of another shape or
            type; nothing is written.
    """
    model = onnx.load(source)
    _check(source, site_tensors(source), tensors)
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(tensors[tensor.name]), tensor.name))
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)


def mark_refittable(network: Any, names: Iterable[str]) -> None:
    """Mark weights of a parsed TensorRT network; all others stay constants.

    Raises:
        ExportError: the network holds no weights of that name.
    """
    unknown = [name for name in names if not network.mark_weights_refittable(name)]
    if unknown:
        raise ExportError(
            f"TensorRT's network has no weights named {', '.join(unknown[:3])} to refit: the graph "
            "and the adapters were written by different versions; export both again"
        )


def _check(source: Path, own: Tensors, given: Tensors) -> None:
    faults = [f"missing {name}" for name in own.keys() - given.keys()]
    faults += [f"not refittable: {name}" for name in given.keys() - own.keys()]
    for name in own.keys() & given.keys():
        ours, theirs = own[name], given[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            faults.append(
                f"{name} is {theirs.dtype} {list(theirs.shape)}, expected {ours.dtype} "
                f"{list(ours.shape)}"
            )
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ExportError(f"{source}: {'; '.join(sorted(faults)[:3])}{more}: not of this base")
