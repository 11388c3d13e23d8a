"""The slow reference of an exchange: one site's tensors put into another's graph by onnx itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from samihs_export.engines.refit import refittable

Tensors = Mapping[str, NDArray[np.generic]]
"""Initializer name -> value, in the graph's own type."""


def site_tensors(path: Path) -> Tensors:
    """One site's refittable tensors, read from its graph."""
    graph = onnx.load(path).graph
    values = {each.name: each for each in graph.initializer}
    names = refittable(graph)
    assert names, f"{path} names no tensor that can be exchanged"
    return {name: numpy_helper.to_array(values[name]) for name in names}


def replace_tensors(source: Path, tensors: Tensors, out: Path) -> None:
    """Write ``source`` with all its refittable tensors replaced by these."""
    model, own = onnx.load(source), site_tensors(source)
    kinds = [{name: (a.shape, a.dtype) for name, a in each.items()} for each in (own, tensors)]
    assert kinds[0] == kinds[1]
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(tensors[tensor.name]), tensor.name))
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
