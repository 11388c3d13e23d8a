"""Which engine of a bundle may be loaded here, by the installed flavour and the sidecars.

Nothing here needs a GPU, and nothing is deserialised.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samihs_runtime.backends.sidecar import FLAVOURS, EngineSidecar
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.graph_identity import graph_sha256
from samihs_runtime.environment import INSTALL
from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.precisions import FASTEST_FIRST

_TO_EXPORT = "fp16"
"""The one to export where a bundle has no graphs that would do, and none was asked for."""


@dataclass(frozen=True)
class EnginePair:
    """An encoder and a decoder engine that fit this machine."""

    encoder: Path
    decoder: Path
    encoder_sidecar: EngineSidecar
    decoder_sidecar: EngineSidecar
    flavour: str
    precision: str


def sidecars(bundle: Bundle) -> list[Path]:
    """The engine sidecars in the bundle.

    Raises:
        BackendError: the folder of engines cannot be read.
    """
    try:
        return sorted(bundle.engines.glob("*.json")) if bundle.engines.is_dir() else []
    except OSError as error:
        raise BackendError(
            f"cannot read {bundle.engines}: {error.strerror or error}; it must be readable by you"
        ) from error


def mend_command(bundle: Bundle) -> str:
    """The command that builds the engines again, for the chosen precision and adapters.

    In front of it stands what has to be done first, if the bundle has no graphs to build them from.
    """
    first, precision = _before_building(bundle)
    command = f"samihs-export engines {shlex.quote(str(bundle.root))}"
    if first or bundle.precision or bundle.adapters:  # otherwise the first of its graphs will do
        command += f" --precision {precision}"
    return first + command + (" --refittable" if bundle.adapters else "")


def _before_building(bundle: Bundle) -> tuple[str, str]:
    """What has to be done before engines can be built, if anything, and their precision."""
    graphs = [each.precision for each in bundle.manifest.graphs if each.family == "trt"]
    if bundle.adapters is None:
        if graphs:
            return "", graphs[0]
        wanted = bundle.precision or _TO_EXPORT
        return f"export the bundle with --precision {wanted}, then ", wanted
    served = [each.precision for each in bundle.adapters.tensors if each.family == "trt"]
    ready = [each for each in served if each in graphs]
    if ready:
        return "", ready[0]
    if served and bundle.precision:  # one was chosen for which no adapters can be exchanged
        return f"take --precision {served[0]} and build its engines: ", served[0]
    again = f"add adapters {bundle.adapters.name} again"
    return f"export the bundle with --precision {_TO_EXPORT}, {again}, then ", _TO_EXPORT


def import_flavour(flavour: str) -> Any:
    """The module of a flavour.

    Raises:
        BackendError: not installed, or installed without its libraries: the ``tensorrt`` package
            on PyPI is a stub that fetches them from NVIDIA's own index.
    """
    mend = INSTALL[flavour]
    if importlib.util.find_spec(flavour) is None:
        raise BackendError(f"{flavour} is not installed: {mend}")
    try:
        module = importlib.import_module(flavour)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"{flavour} is installed without the libraries it needs ({error}): {mend}"
        ) from error
    if not hasattr(module, "Runtime"):
        raise BackendError(f"{flavour} is a stub without a runtime: {mend}")
    return module


def find_engines(bundle: Bundle, compute_capability: str) -> tuple[EnginePair, Any]:
    """The first encoder and decoder that fit, in the order of :data:`FLAVOURS`.

    Args:
        bundle: an opened bundle.
        compute_capability: of the GPU, such as ``8.9``.

    Returns:
        The engines and the TensorRT module that loads them.

    Raises:
        BackendError: none fit; says what was wrong with each, and the command that fixes it.
    """
    paths = sidecars(bundle)
    mend = mend_command(bundle)
    if not paths:
        raise BackendError(f"the bundle holds no TensorRT engines; fix: {mend}")
    refusals: list[str] = []
    for flavour in FLAVOURS:
        try:
            module = import_flavour(flavour)
        except BackendError as error:
            refusals.append(str(error))
            continue
        version = str(module.__version__)
        found = _fitting(bundle, paths, flavour, version, compute_capability, refusals)
        pair = _pair(found, flavour)
        if pair is not None:
            return pair, module
    raise BackendError(
        f"no TensorRT engine of {bundle.root} fits: {'; '.join(dict.fromkeys(refusals))}; "
        f"fix: {mend}"
    )


def refusal_of(
    bundle: Bundle, path: Path, flavour: str, version: str, compute_capability: str
) -> tuple[EngineSidecar, str | None]:
    """Read one sidecar and say why its engine must not be loaded; None if it may.

    Raises:
        BackendError: the sidecar cannot be read.
    """
    sidecar = EngineSidecar.read(path)
    # The precisions of the bundle's graphs; only the chosen one, if one was chosen.
    usable = list(dict.fromkeys(each.precision for each in bundle.manifest.graphs))
    if sidecar.precision not in usable:
        wanted = ", ".join(usable)
        return sidecar, f"its precision is {sidecar.precision}, only {wanted} can be used"
    hashes = {
        graph_sha256(bundle.manifest, getattr(each, sidecar.part))
        for each in bundle.manifest.graphs
        if each.precision == sidecar.precision
    }
    # The graphs of this precision, of either family: an engine is built from exactly one of them.
    source = sidecar.onnx_sha256 if sidecar.onnx_sha256 in hashes else ""
    engine = path.with_suffix(".engine")
    mismatch = sidecar.mismatch(engine, source, flavour, version, compute_capability)
    return sidecar, mismatch or _adapters_refused(bundle, sidecar)


def _adapters_refused(bundle: Bundle, sidecar: EngineSidecar) -> str | None:
    """Why the chosen adapters cannot be put into an engine; None if they can or none are chosen."""
    if bundle.adapters is None:
        return None
    try:
        bundle.adapter_tensors("trt", sidecar.precision)
    except BundleError as error:
        return str(error)
    if not sidecar.refittable:
        return f"built without --refittable, which adapters {bundle.adapters.name} need"
    return None


def _fitting(
    bundle: Bundle,
    paths: Sequence[Path],
    flavour: str,
    version: str,
    compute_capability: str,
    refusals: list[str],
) -> list[tuple[Path, EngineSidecar]]:
    found = []
    for path in paths:
        try:
            sidecar, refusal = refusal_of(bundle, path, flavour, version, compute_capability)
        except BackendError as error:
            refusals.append(str(error))
            continue
        if refusal is None:
            found.append((path.with_suffix(".engine"), sidecar))
        elif sidecar.flavour == flavour:
            refusals.append(f"{path.stem}: {refusal}")
    return found


def _pair(found: Sequence[tuple[Path, EngineSidecar]], flavour: str) -> EnginePair | None:
    """Encoder and decoder of one precision, the fastest that has both."""
    for precision in FASTEST_FIRST:
        parts = {each.part: (path, each) for path, each in found if each.precision == precision}
        if len(parts) == 2:
            (encoder, its), (decoder, other) = parts["encoder"], parts["decoder"]
            return EnginePair(encoder, decoder, its, other, flavour, precision)
    return None
