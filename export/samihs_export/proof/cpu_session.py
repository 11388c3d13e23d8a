"""ONNX Runtime's sessions on the CPU, in which an export is proved. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samihs_runtime.backends.onnx_runtime import (
    CPU_PROVIDER,
    ERRORS_ONLY,
    EXACT_INT8,
    import_onnxruntime,
)

_TOO_NEW = ("opset", "domain_version", "IR version", "NOT_IMPLEMENTED")
"""What its messages (1.32) contain if a graph is newer than it is: its opset, an operator, the file
format, or an operator's version."""


def cpu_session(graph: Path | bytes, threads: int = 2) -> Any:
    """A session of a graph, given as its file or its content.

    Raises:
        BackendError: ONNX Runtime is not installed.
        Exception: ONNX Runtime's own, if it refuses the graph.
    """
    ort = import_onnxruntime("cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry(*EXACT_INT8)
    content = graph if isinstance(graph, bytes) else str(graph)
    return ort.InferenceSession(content, options, providers=[CPU_PROVIDER])


def advice_for(error: Exception) -> str:
    """What to do about an error of ONNX Runtime, to append to it; empty if nobody knows."""
    if any(words in str(error) for words in _TOO_NEW):
        return "; the graph is newer than this onnxruntime: install a newer one"
    return ""
