"""Which graph an engine was built from: its file, and the weights that are stored next to it.

A graph above protobuf's 2 GB has its weights in other files of its folder (ONNX external data),
which the hash of the ``.onnx`` file alone would not cover.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

from samihs_runtime.bundle.manifest import Manifest


def files_beside(manifest: Manifest, graph: str) -> list[str]:
    """Listed files in a graph's folder that are not graphs: its weights, if they are external.

    Args:
        manifest: of the bundle, which lists every file of such a folder.
        graph: as named in the manifest, such as ``onnx/encoder.onnx``.
    """
    folder = PurePosixPath(graph).parent
    paths = (PurePosixPath(name) for name in manifest.files)
    beside = (each for each in paths if each.parent == folder and each.suffix != ".onnx")
    return sorted(each.as_posix() for each in beside)


def graph_sha256(manifest: Manifest, graph: str) -> str:
    """sha256 of a listed graph; if there are files next to it, one over its hash and theirs."""
    own = manifest.files[graph].sha256
    beside = files_beside(manifest, graph)
    if not beside:
        return own
    lines = [own, *(f"{manifest.files[name].sha256} {name}" for name in beside)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
