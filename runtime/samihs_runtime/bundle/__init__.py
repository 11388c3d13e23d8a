"""A bundle: the folder in which a model travels from export to runtime.

::

    <bundle>/manifest.json     description, and sha256 and size of every other file
            /onnx/, /trt/      encoder and decoder graphs, for ONNX Runtime and as TensorRT's source
            /adapters/         other sites' tensors over the same base, one folder for each set
            /engines/          built on the machine that runs them; each has its own sidecar
                               (``backends/sidecar.py``), so the manifest does not list them

Nothing that the manifest lists is loaded before :meth:`Bundle.open` has verified every file against
it. Engines are code that was built on this machine, and are trusted as such.

The names below are imported when they are first used: a command that only names the precisions
(``samihs-infer --help``) loads nothing that opens, hashes or writes a bundle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samihs_runtime.bundle.checks import MANIFEST, sha256_of
    from samihs_runtime.bundle.entries import AdapterSet, FileEntry, GraphEntry, WindowRule
    from samihs_runtime.bundle.manifest import Manifest
    from samihs_runtime.bundle.opened import ADAPTERS, ENGINES, Bundle, GraphFiles, shipped_bundle
    from samihs_runtime.bundle.writing import write_bundle

__all__ = [
    "ADAPTERS",
    "ENGINES",
    "MANIFEST",
    "AdapterSet",
    "Bundle",
    "FileEntry",
    "GraphEntry",
    "GraphFiles",
    "Manifest",
    "WindowRule",
    "sha256_of",
    "shipped_bundle",
    "write_bundle",
]

_HOMES = {
    "checks": ("MANIFEST", "sha256_of"),
    "entries": ("AdapterSet", "FileEntry", "GraphEntry", "WindowRule"),
    "manifest": ("Manifest",),
    "opened": ("ADAPTERS", "ENGINES", "Bundle", "GraphFiles", "shipped_bundle"),
    "writing": ("write_bundle",),
}
"""Module of this package -> the names of :data:`__all__` that it defines."""


if not TYPE_CHECKING:  # otherwise a type checker would believe in any name

    def __getattr__(name: str) -> object:
        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
