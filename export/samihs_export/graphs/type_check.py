"""The types of a written graph, read back and compared with the plan in ``precision``.

On the CPU, ONNX Runtime widens float16 to float32 wherever it has no kernel, so a norm that would
overflow on a GPU passes every numeric gate here. The types must therefore be checked as well.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from samihs_export.graphs import ort_attention
from samihs_export.graphs.layer_names import WIDE
from samihs_runtime.errors import ExportError

PRODUCTS = (
    "MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "Attention", ort_attention.OPERATOR,
    "Gelu",
)  # fmt: skip
"""Operators that multiply in the compute type. Not among them are those of 8-bit products; a
``MatMul`` behind Q/DQ is, since it multiplies in the float type."""
IN_FLOAT32 = ("LayerNormalization", "Softmax", "ReduceMean", "Pow", "Sqrt", "Sin", "Cos", "Resize")
"""Norms (the neck's are written out as mean, power, root), softmax, prompt positions, resizes."""
_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "fp32": TensorProto.FLOAT}


def check_types(path: Path, precision: str) -> None:
    """Refuse a graph that computes a norm in half precision, or its products in another type.

    Products of layers that are float32 at every precision (``layer_names.WIDE``) must be float32.

    Args:
        path: the ONNX file.
        precision: the float type of everything that is not quantized: fp32, fp16 or bf16.

    Raises:
        ExportError: the message names the nodes.
    """
    # Without external weights: types do not need them, and they may exceed protobuf's 2 GB limit.
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    values = (*model.graph.value_info, *model.graph.output)
    types = {each.name: each.type.tensor_type.elem_type for each in values}
    narrow: list[str] = []
    other: list[str] = []
    for node in model.graph.node:
        kind = types.get(node.output[0], 0)
        product = node.op_type in PRODUCTS
        if node.op_type in IN_FLOAT32 or (product and node.name.startswith(WIDE)):
            narrow += [] if kind == TensorProto.FLOAT else [node.name]
        elif product and kind != _TYPES[precision]:
            other.append(node.name)
    for names, wanted in ((narrow, "float32"), (other, precision)):
        if names:
            raise ExportError(
                f"{path.parent.name}/{path.name}: {len(names)} nodes compute in another type than "
                f"{wanted}, which the plan in samihs_export.graphs.precision has for them: "
                f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            )
