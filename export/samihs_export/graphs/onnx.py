"""The graphs as ONNX files: dynamic batch and point count, identical bytes each time."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_runtime.errors import ExportError
from samihs_training.network.sam import SamConfig

OPSET = 23
"""The first opset with ``Attention``, for which TensorRT has a layer of its own."""
ORT_OPSET = 20
"""For ONNX Runtime: the first opset with ``Gelu``. Its CUDA provider (1.31) has no ``MaxPool`` of
opset 22 or later: at opset 23, part of the decoder would run on the CPU, and no CUDA graph could be
captured."""
ENCODER_INPUTS, ENCODER_OUTPUTS = ("hu", "window"), ("embedding",)
DECODER_INPUTS = ("embedding", "points", "labels", "prior", "has_prior")
DECODER_OUTPUTS = ("logits", "mask", "score")
_EMBEDDED_LIMIT = 1_800_000_000
"""Bytes of weights above which they are stored in a separate file: protobuf's limit is 2 GB (ViT-H
in fp32)."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter lists the modules a node came from, outermost first, then the node."""


def export_encoder(graph: EncoderGraph, slice_size: int, path: Path, opset: int = OPSET) -> None:
    """Write the encoder; batch B is dynamic. Raises :class:`ExportError`."""
    hu = torch.zeros(2, 1, slice_size, slice_size)
    window = torch.tensor([[0.0, 80.0], [0.0, 80.0]])
    batch = torch.export.Dim("batch")
    shapes = {"hu": {0: batch}, "window": {0: batch}}
    _export(graph, (hu, window), shapes, ENCODER_INPUTS, ENCODER_OUTPUTS, path, opset)


def export_decoder(graph: DecoderGraph, config: SamConfig, path: Path, opset: int = OPSET) -> None:
    """Write the decoder; batch B and point count N are dynamic. Raises :class:`ExportError`."""
    batch, count = torch.export.Dim("batch"), torch.export.Dim("points")
    examples = (
        torch.zeros(2, config.embedding_channels, config.grid, config.grid),
        torch.zeros(2, 3, 2),
        torch.tensor([[1, 0, -1], [1, 0, -1]], dtype=torch.int32),
        torch.zeros(2, 1, config.mask_size, config.mask_size),
        torch.zeros(2),
    )
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in DECODER_INPUTS}
    shapes["points"][1] = shapes["labels"][1] = count
    _export(graph, examples, shapes, DECODER_INPUTS, DECODER_OUTPUTS, path, opset)


@torch.no_grad()
def _export(
    graph: nn.Module,
    examples: tuple[Tensor, ...],
    shapes: dict[str, dict[int, Any]],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    path: Path,
    opset: int,
) -> None:
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                graph.eval(),
                examples,
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as error:  # the exporter's own classes share no base
            raise ExportError(f"{path.name}: torch cannot export the graph: {error}") from error
    if program is None:
        raise ExportError(f"{path.name}: torch's exporter gave no graph")
    model = program.model
    _name_nodes(model, path.stem)
    _strip(model, path.stem)
    _save(model, path)


def _name_nodes(model: onnx_ir.Model, graph: str) -> None:
    """Name nodes like ``blocks.0.mlp.lin1/MatMul``, as TensorRT, plans and errors refer to them.

    The part before the slash is the layer whose weight the node takes, else the module it came
    from, else the name of the graph.
    """
    seen: Counter[str] = Counter()
    for node in model.graph:
        name = f"{_layer_of(node) or graph}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _layer_of(node: onnx_ir.Node) -> str:
    for value in node.inputs:
        if value is not None and value.is_initializer() and str(value.name).endswith(".weight"):
            return str(value.name).removesuffix(".weight")
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _strip(model: onnx_ir.Model, name: str) -> None:
    """Remove what differs between machines and runs: stack traces, paths, scopes, doc strings."""
    model.graph.name = name
    model.metadata_props.clear()
    model.doc_string = None
    for item in _everything_in(model.graph):
        item.metadata_props.clear()
        item.doc_string = None


def _everything_in(graph: onnx_ir.Graph) -> Iterator[Any]:
    yield graph
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield node
        yield from node.outputs


def _save(model: onnx_ir.Model, path: Path) -> None:
    """Write and check the file, with the weights inside wherever protobuf can hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(_bytes(model.graph.initializers.values()))
    beside = f"{path.name}.data" if weights > _EMBEDDED_LIMIT else None
    onnx_ir.save(model, path, external_data=beside)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name}: onnx's checker refuses the graph: {error}") from error


def _bytes(values: Iterable[onnx_ir.Value]) -> Iterator[int]:
    for value in values:
        if value.const_value is not None:
            yield value.const_value.nbytes


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages on the terminal; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
