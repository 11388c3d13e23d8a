"""Which graphs a bundle contains, in which form, and where they are stored.

::

    family  precision   encoder                                  decoder
    onnx    fp32        windows by additive bias, whole grids    fp32
                        by ONNX Runtime's fused attention
    onnx    int8        the same, quantized at each call         onnx fp32's
    trt     fp32        attention as additive bias               fp32
    trt     fp16, bf16  attention by augmented queries and keys  fp16, bf16
    trt     int8, fp8   trt fp16's, calibrated Q/DQ              trt fp16's

ONNX Runtime's fused attention does not store the scores of all tokens by all tokens. Additive bias
needs the least arithmetic in small windows, and is the only form for fp32 in TensorRT, which has no
attention kernel for fp32. In bf16, a model with a pyramid up-samples by matrix products, because
TensorRT-RTX has no bfloat16 transposed convolution (``upscaling``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from samihs_export.float_types import FLOAT_OF, Precision
from samihs_export.graphs.attention import AttentionForm
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.onnx import OPSET, ORT_OPSET, export_decoder, export_encoder
from samihs_export.graphs.precision import to_precision
from samihs_export.graphs.quantization import FP8, INT8, Range, quantize_dynamic, quantize_static
from samihs_export.graphs.type_check import check_types
from samihs_export.graphs.upscaling import UpscalingForm
from samihs_runtime.bundle.entries import GraphEntry
from samihs_runtime.errors import ExportError
from samihs_training.network.model import SamihsModel

Ranges = Callable[[], Mapping[str, Range]]
"""Returns the calibrated ranges; called only if a graph needs them."""
_SCHEMES = {"int8": INT8, "fp8": FP8}


def families(precisions: tuple[Precision, ...]) -> list[tuple[str, Precision]]:
    """(family, precision) of each graph pair: ONNX Runtime's, then TensorRT's as requested.

    Raises:
        ExportError: a precision is named twice.
    """
    if len(set(precisions)) < len(precisions):
        raise ExportError(f"precisions {', '.join(precisions)}: name each once")
    for_cpu: list[tuple[str, Precision]] = [("onnx", "fp32")]
    if "int8" in precisions:
        for_cpu.append(("onnx", "int8"))
    return [*for_cpu, *(("trt", precision) for precision in precisions)]


def attention_form(family: str, precision: Precision) -> AttentionForm:
    """As in the table above."""
    if family == "onnx":
        return "fused"
    return "bias" if precision == "fp32" else "augmented"


def upscaling_form(precision: Precision) -> UpscalingForm:
    """The form in an encoder or decoder of that float precision."""
    return "product" if precision == "bf16" else "transposed"


def float_precision(family: str, precision: Precision) -> Precision:
    """The type of everything that is not quantized."""
    return FLOAT_OF[precision] if family == "trt" or precision == "fp32" else "fp32"


def opset(family: str) -> int:
    """The opset of the family's graphs."""
    return ORT_OPSET if family == "onnx" else OPSET


def graph_pair(
    merged: SamihsModel, family: str, precision: Precision, slice_size: int
) -> tuple[EncoderGraph, DecoderGraph]:
    """The graphs from which the files of a family and precision are written, not yet quantized."""
    kind = float_precision(family, precision)
    upscaling = upscaling_form(kind)
    encoder = EncoderGraph(merged, attention_form(family, precision), upscaling)
    decoder = DecoderGraph(merged, slice_size, upscaling)
    return to_precision(encoder, kind), to_precision(decoder, kind)


def write_graphs(
    folder: Path,
    merged: SamihsModel,
    family: str,
    precision: Precision,
    slice_size: int,
    ranges: Ranges,
) -> GraphEntry:
    """Export one family and precision below the bundle's folder. Raises :class:`ExportError`."""
    kind = float_precision(family, precision)
    place = f"{family}/{precision}" if (family, precision) != ("onnx", "fp32") else family
    shared = family if family == "onnx" else f"{family}/{kind}"
    entry = GraphEntry(family, precision, f"{place}/encoder.onnx", f"{shared}/decoder.onnx")
    encoder, decoder = graph_pair(merged, family, precision, slice_size)
    if precision == kind:
        export_encoder(encoder, slice_size, folder / entry.encoder, opset(family))
    else:
        _write_quantized(encoder, precision, family, slice_size, folder / entry.encoder, ranges)
    if not (folder / entry.decoder).exists():
        export_decoder(decoder, merged.config, folder / entry.decoder, opset(family))
    for path in (entry.encoder, entry.decoder):
        check_types(folder / path, kind)
    return entry


def _write_quantized(
    graph: EncoderGraph,
    precision: Precision,
    family: str,
    slice_size: int,
    path: Path,
    ranges: Ranges,
) -> None:
    with tempfile.TemporaryDirectory(prefix="samihs-quantize-") as scratch:
        # Under the final file name, which is also recorded in the file.
        source = Path(scratch) / path.name
        export_encoder(graph, slice_size, source, opset(family))
        if family == "onnx":
            quantize_dynamic(source, path)
        else:
            quantize_static(source, path, ranges(), _SCHEMES[precision])
