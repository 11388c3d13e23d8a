"""What TensorRT's parser made of a graph: layer kinds and types, compared with the request.

A builder gives no warning when a graph is float32 throughout, or when an attention is split into
products and a softmax. The parsed network is therefore read before it is built, on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samihs_export.float_types import FLOAT_OF
from samihs_export.graphs.layer_names import QUANTIZED, WIDE, block_of
from samihs_runtime.errors import ExportError

_FLOATS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
"""TensorRT's names for the float types."""
_EIGHT_BITS = {"int8": "INT8", "fp8": "FP8"}
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION")
_IN_FLOAT32 = ("NORMALIZATION", "SOFTMAX")


@dataclass(frozen=True)
class Layer:
    """One layer of a parsed network."""

    name: str
    kind: str
    """TensorRT's name for it, such as ``MATRIX_MULTIPLY``."""
    type: str
    """Type of its first output, such as ``HALF``."""


def layers_of(network: Any) -> list[Layer]:
    """Every layer of a parsed ``INetworkDefinition``, in order."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = str(layer.type).rpartition(".")[2]
        layers.append(Layer(layer.name, kind, layer.get_output(0).dtype.name))
    return layers


def layer_kinds(layers: Sequence[Layer]) -> dict[str, int]:
    """Number of layers of each kind and type: ``{"MATRIX_MULTIPLY HALF": 36, ...}``."""
    return dict(sorted(Counter(f"{each.kind} {each.type}" for each in layers).items()))


def attention_layers(layers: Sequence[Layer]) -> int:
    """Number of TensorRT's own attention layers."""
    return sum(each.kind == "ATTENTION_INPUT" for each in layers)


def check_layers(layers: Sequence[Layer], precision: str, graph: str) -> None:
    """Refuse a network that does not have the requested precision.

    Args:
        layers: of the parsed network.
        precision: of the graph, as named in the bundle.
        graph: its file, for the message.

    Raises:
        ExportError: products of another type, a norm or softmax in half precision, layers that
            are not quantized, or attention that is not an attention layer; the message names them.
    """
    wanted = _FLOATS[FLOAT_OF[precision]]
    _refuse(graph, f"{precision} was asked for; of another type:", _other(layers, wanted))
    narrow = [e.name for e in layers if e.kind in _IN_FLOAT32 and e.type != "FLOAT"]
    _refuse(graph, "norms and softmax belong in float32; in half precision:", narrow)
    if precision in _EIGHT_BITS:
        missing = _not_quantized(layers, _EIGHT_BITS[precision])
        _refuse(graph, f"{precision} was asked for; not quantized:", missing)
    if precision != "fp32":
        expected = "attention was expected as TensorRT's own layer, but is taken apart in"
        _refuse(graph, expected, _without_attention(layers))


def _refuse(graph: str, fault: str, names: Sequence[str]) -> None:
    if names:
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        raise ExportError(f"{graph}: {fault} {', '.join(names[:3])}{more}: export it again")


def _other(layers: Sequence[Layer], wanted: str) -> list[str]:
    """Products of another type than wanted, except those that stay in float32.

    Graphs of samihs 0.1 do not name their nodes after layers: there only a majority counts.
    """
    products = [each for each in layers if each.kind in _PRODUCTS]
    other = [e.name for e in products if e.type != wanted and not e.name.startswith(WIDE)]
    named = any("/" in each.name for each in products)
    return other if named or len(other) > len(products) // 2 else []


def _not_quantized(layers: Sequence[Layer], eight_bits: str) -> list[str]:
    """Linear layers of the blocks whose input is not quantized to 8 bits by a QUANTIZE layer."""
    wanted = [f"blocks.{block}.{name}" for block in _blocks(layers) for name in QUANTIZED]
    quantizers = [e for e in layers if e.kind == "QUANTIZE" and e.type == eight_bits]
    quantized = {each.name.partition("/")[0] for each in quantizers}
    return [name for name in wanted if name not in quantized]


def _without_attention(layers: Sequence[Layer]) -> list[str]:
    """Encoder blocks without an attention layer; in unnamed graphs they are only counted."""
    blocks = _blocks(layers)
    found = [each.name for each in layers if each.kind == "ATTENTION_INPUT"]
    if len(found) == len(blocks):
        return []
    holding = {block_of(name) for name in found}
    return [f"blocks.{block}.attention" for block in blocks if block not in holding]


def _blocks(layers: Sequence[Layer]) -> list[int]:
    """Numbers of the encoder's blocks; a decoder has none."""
    found = {block_of(each.name) for each in layers}
    return sorted(block for block in found if block is not None)
