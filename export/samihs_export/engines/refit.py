"""Several sites' adapters over one base: which tensors differ, and how they are exchanged.

Sites share the base and differ in what training changed: the linear layers that adapters are
merged into, and the whole decoder. Only these are marked refittable, under their names in the ONNX
file, so that everything else keeps its fused, constant weights. The same tensors are exchanged in
an engine (by TensorRT's refitter) and in the ONNX file; the latter needs no GPU, and is what the
parity gates are applied to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import onnx
from onnx import TensorProto

from samihs_export.graphs.layer_names import MERGED, is_one_of
from samihs_runtime.errors import ExportError

_NEVER_TRAINED = re.compile(
    r"points\.frequencies|(.+\.)?(click_maps|(fine_)?clicked)\.(centres|deviations?)"
)
"""Named tensors of the decoder that are drawn once for the base, or fixed."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def refittable(graph: onnx.GraphProto) -> list[str]:
    """Names of the tensors that one site's training changes, in the graph's order.

    In an encoder (a graph with an input ``hu``), these are the merged layers, biases included; in a
    decoder, every tensor with a name of its own, such as ``transformer.layers.0.norm1.weight``;
    never the exporter's constants.
    """
    floats = [each for each in graph.initializer if each.data_type in _FLOATS]
    named = [each.name for each in floats if not each.name.startswith("val_")]
    if any(each.name == "hu" for each in graph.input):
        return [name for name in named if _is_merged(name)]
    named = [name for name in named if not _NEVER_TRAINED.fullmatch(name)]
    return [name for name in named if "." in name or name in ("tokens", "no_mask")]


def _is_merged(name: str) -> bool:
    layer, _, kind = name.rpartition(".")
    return kind in ("weight", "bias") and is_one_of(layer, MERGED)


def mark_refittable(network: Any, names: Iterable[str]) -> None:
    """Mark weights of a parsed TensorRT network as refittable; all others stay constants.

    Raises:
        ExportError: the network has no weights of that name.
    """
    unknown = [name for name in names if not network.mark_weights_refittable(name)]
    if unknown:
        raise ExportError(
            f"TensorRT's network has no weights named {', '.join(unknown[:3])} to refit: the graph "
            "and the adapters were written by different versions; export both again"
        )
