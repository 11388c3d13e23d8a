"""Replace a graph's own tensors with those of another site, before anything is loaded.

Both have the same names, types and shapes, so only the bytes of some weights in an ONNX file
change: they are overwritten in memory. ONNX Runtime's ``add_initializer`` would come too late,
because constants are first folded with the file's own values (seen on an fp16 graph with 1.32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.onnx_file import Span, fields
from samihs_runtime.bundle.tensor_file import RawTensor, read_tensors
from samihs_runtime.errors import BundleError

Tensors = Mapping[str, RawTensor]
"""Initializer name -> tensor."""

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 2, 8, 9, 13
_TYPES = {"F32": 1, "F16": 10, "BF16": 16}
"""``TensorProto.DataType`` of each safetensors type."""


def exchanged_tensors(bundle: Bundle, family: str, precision: str, part: str) -> Tensors | None:
    """The tensors that the chosen adapters replace in one graph; None for the bundle's own.

    Raises:
        BundleError: they have no tensors for that family and precision.
    """
    path = bundle.adapter_tensors(family, precision)
    if path is None:
        return None
    return of_part(read_tensors(path), part)


def of_part(tensors: Tensors, part: str) -> Tensors:
    """Those of one graph, ``encoder`` or ``decoder``, under their names in that graph."""
    prefix = f"{part}/"
    return {n.removeprefix(prefix): each for n, each in tensors.items() if n.startswith(prefix)}


def exchanged_graph(path: Path, tensors: Tensors) -> bytes:
    """An ONNX file's content with the bytes of these initializers replaced.

    Raises:
        BundleError: the graph has no such initializer, or one of another type or size; or its
            weights are in a separate file; or it cannot be read.
    """
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    places = dict(_initializers(path, memoryview(content)))
    for name, tensor in tensors.items():
        if name not in places:
            raise _misfit(path, name, "is not stored in the graph")
        kind, (start, stop) = places[name]
        if kind != _TYPES[tensor.dtype] or stop - start != len(tensor.data):
            raise _misfit(path, name, f"is no {tensor.dtype} of {len(tensor.data)} bytes")
        content[start:stop] = tensor.data
    return bytes(content)


def _misfit(path: Path, name: str, fault: str) -> BundleError:
    return BundleError(f"{path}: {name} {fault}: add the adapters to the bundle again")


def _initializers(path: Path, model: memoryview) -> Iterator[tuple[str, tuple[int, Span]]]:
    """(name, (type, span of its bytes)) of each initializer; raises if one is in another file."""
    for number, graph in fields(model, (0, len(model))):
        if number != _MODEL_GRAPH or isinstance(graph, int):
            continue
        for inner, tensor in fields(model, graph):
            if inner != _GRAPH_INITIALIZER or isinstance(tensor, int):
                continue
            found = dict(fields(model, tensor))
            if _TENSOR_EXTERNAL in found:
                raise BundleError(
                    f"{path} keeps its weights in a file beside it, where they cannot be "
                    "exchanged: adapters for it need a bundle of their own"
                )
            name, kind, raw = (found.get(n) for n in (_TENSOR_NAME, _TENSOR_TYPE, _TENSOR_RAW))
            if isinstance(name, tuple) and isinstance(kind, int) and isinstance(raw, tuple):
                yield bytes(model[slice(*name)]).decode(), (kind, raw)
