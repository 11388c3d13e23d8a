"""What runs on this machine, what does not, and why: found out by running it."""

from __future__ import annotations

import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samihs_runtime.backends.base import Backend
from samihs_runtime.backends.choose import ORDER, choose, internal_error
from samihs_runtime.backends.probe import GpuProbe, probe_gpus
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.backends.tensorrt_engines import (
    import_flavour,
    mend_command,
    refusal_of,
    sidecars,
)
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.environment import Conflict, conflicts, installed, unserved_gpu
from samihs_runtime.errors import SamihsError, shows_tracebacks
from samihs_runtime.segmentation import FOREGROUND, NOT_A_POINT


@dataclass(frozen=True)
class BackendState:
    """Whether a backend answered a click on an empty slice."""

    name: str
    works: bool
    detail: str
    """What runs, or why nothing does and how to fix it."""
    encode_s: float | None = None
    click_s: float | None = None


@dataclass(frozen=True)
class EngineState:
    """Whether an engine of the bundle may be loaded here."""

    name: str
    fits: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found."""

    python: str
    platform: str
    gpu: GpuProbe
    packages: dict[str, str]
    conflicts: list[Conflict]
    bundle: str
    """Its path and what it is, or why it cannot be opened."""
    bundle_opens: bool
    engines: list[EngineState]
    backends: list[BackendState]
    chosen: str | None
    """The backend that ``--backend auto`` chooses; None if it ends in an error."""

    @property
    def works(self) -> bool:
        """Whether some backend works."""
        return any(each.works for each in self.backends)


def diagnose(bundle_path: Path | None = None) -> Diagnosis:
    """Examine everything; an error that belongs in the diagnosis is reported there, not raised.

    Args:
        bundle_path: a bundle; None for the shipped one.
    """
    gpu = probe_gpus()
    packages = installed()
    bundle: Bundle | None = None
    try:
        bundle = Bundle.open(bundle_path if bundle_path is not None else shipped_bundle())
        manifest = bundle.manifest
        words = f"{bundle.root}: {manifest.name} {manifest.version} ({manifest.preset})"
    except SamihsError as error:
        words = str(error)
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        gpu=gpu,
        packages=packages,
        conflicts=_conflicts(packages, gpu),
        bundle=words,
        bundle_opens=bundle is not None,
        engines=_engines(bundle, gpu) if bundle is not None else [],
        backends=[_try_backend(bundle, name) for name in ORDER] if bundle is not None else [],
        chosen=_chosen(bundle) if bundle is not None else None,
    )


def _conflicts(packages: dict[str, str], gpu: GpuProbe) -> list[Conflict]:
    unserved = [unserved_gpu(packages, each.compute_capability) for each in gpu.devices[:1]]
    return [*conflicts(packages, gpu.cuda), *(each for each in unserved if each is not None)]


def _try_backend(bundle: Bundle, name: str) -> BackendState:
    """Open it, encode one empty slice, and click on it: it works only if that really ran."""
    try:
        with choose(bundle, name).backend as backend:
            return _exercise(bundle, backend, name)
    except SamihsError as error:
        return BackendState(name, False, _cause(error))
    except Exception as error:  # a bug of ours or of a library: the other backends may work
        if shows_tracebacks():
            traceback.print_exc()
        return BackendState(name, False, internal_error(error))


def _chosen(bundle: Bundle) -> str | None:
    """What ``auto`` opens, which need not be the first backend that answers a click."""
    try:
        with choose(bundle).backend as backend:
            return backend.name
    except Exception:  # already reported in the line of the backend that raised it
        return None


def _exercise(bundle: Bundle, backend: Backend, name: str) -> BackendState:
    size = bundle.manifest.slice_size
    slice_hu = np.zeros((1, 1, size, size), np.float32)
    window = np.asarray([(0.0, 100.0)], np.float32)
    points = np.asarray([[(size / 2, size / 2), (0, 0)]], np.float32)
    labels = np.asarray([(FOREGROUND, NOT_A_POINT)], np.int32)
    backend.decode(backend.encode(slice_hu, window), points, labels, None)  # loads, warms up
    start = time.perf_counter()
    embeddings = backend.encode(slice_hu, window)
    encoded = time.perf_counter()
    decoded = backend.decode(embeddings, points, labels, None)
    end = time.perf_counter()
    if not np.isfinite(decoded.logits).all():
        return BackendState(name, False, f"{backend.description}: gives values that are not finite")
    return BackendState(name, True, backend.description, encoded - start, end - encoded)


def _cause(error: SamihsError) -> str:
    """The backend's own message, without ``was asked for and cannot run``."""
    return str(error.__cause__ if isinstance(error.__cause__, SamihsError) else error)


def _engines(bundle: Bundle, gpu: GpuProbe) -> list[EngineState]:
    capability = gpu.devices[0].compute_capability if gpu.devices else "none"
    try:
        paths = sidecars(bundle)
    except SamihsError as error:
        return [EngineState(bundle.engines.name, False, str(error))]
    states = []
    for path in paths:
        try:
            flavour = EngineSidecar.read(path).flavour
            version = str(import_flavour(flavour).__version__)
            _, refusal = refusal_of(bundle, path, flavour, version, capability)
        except SamihsError as error:
            refusal = str(error)
        if refusal is not None:
            refusal = f"{refusal}; fix: {mend_command(bundle)}"
        states.append(EngineState(path.stem, refusal is None, refusal or ""))
    return states
