"""A bundle: the folder in which a model travels from export to runtime.

::

    <bundle>/manifest.json     description, and sha256 and size of every other file
            /onnx/, /trt/      encoder and decoder graphs, for ONNX Runtime and as TensorRT's source
            /adapters/         other sites' tensors over the same base, one folder for each set
            /engines/          built on the machine that runs them; each has its own sidecar
                               (``backends/sidecar.py``), so the manifest does not list them

Nothing that the manifest lists is loaded before :meth:`Bundle.open` has verified every file against
it. Engines are code that was built on this machine, and are trusted as such.
"""

from __future__ import annotations

from samihs_runtime.bundle.checks import MANIFEST as MANIFEST
from samihs_runtime.bundle.checks import sha256_of as sha256_of
from samihs_runtime.bundle.entries import AdapterSet as AdapterSet
from samihs_runtime.bundle.entries import FileEntry as FileEntry
from samihs_runtime.bundle.entries import GraphEntry as GraphEntry
from samihs_runtime.bundle.entries import WindowRule as WindowRule
from samihs_runtime.bundle.manifest import Manifest as Manifest
from samihs_runtime.bundle.opened import ADAPTERS as ADAPTERS
from samihs_runtime.bundle.opened import ENGINES as ENGINES
from samihs_runtime.bundle.opened import Bundle as Bundle
from samihs_runtime.bundle.opened import GraphFiles as GraphFiles
from samihs_runtime.bundle.opened import shipped_bundle as shipped_bundle
from samihs_runtime.bundle.writing import write_bundle as write_bundle
