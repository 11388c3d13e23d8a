"""``samihs-doctor``: what runs on this machine, what does not, and the command that fixes it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
from samihs_runtime.errors import SamihsError, one_line_errors, shows_tracebacks
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
    """Everything that the doctor found."""

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


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as JSON text."""
    data: dict[str, Any] = {"works": diagnosis.works, **dataclasses.asdict(diagnosis)}
    return json.dumps(data, indent=2)


def render(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis in readable form."""
    _line(console, f"Python {diagnosis.python} on {diagnosis.platform}")
    _line(console, _gpu_words(diagnosis.gpu))
    words = ", ".join(f"{name} {version}" for name, version in diagnosis.packages.items())
    _line(console, f"packages: {words or 'none of those it uses'}")
    mark = "bundle: " if diagnosis.bundle_opens else "bundle cannot be opened: "
    _line(console, mark + diagnosis.bundle)
    for engine in diagnosis.engines:
        _line(console, f"engine {engine.name}: {'fits' if engine.fits else engine.detail}")
    for conflict in diagnosis.conflicts:
        _line(console, f"conflict: {conflict.problem}", "yellow")
        _line(console, f"    fix: {conflict.mend}", "bold")
    if diagnosis.backends:
        _render_backends(diagnosis.backends, console)
    _line(console, *_verdict(diagnosis))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="Bundle to examine.  [default: the shipped one]",
)
@click.option("--json", "to_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
@one_line_errors
def main(bundle_path: Path | None, to_json: bool, debug: bool) -> None:
    """Say which backends work on this machine, and how to fix the others.

    Exits 0 when at least one works, 1 otherwise.
    """
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    diagnosis = diagnose(bundle_path)
    if to_json:
        click.echo(as_json(diagnosis))
    else:
        render(diagnosis, Console())
    raise SystemExit(0 if diagnosis.works else 1)


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
            flavour = _flavour_of(path)
            version = str(import_flavour(flavour).__version__)
            _, refusal = refusal_of(bundle, path, flavour, version, capability)
        except SamihsError as error:
            refusal = str(error)
        if refusal is not None:
            refusal = f"{refusal}; fix: {mend_command(bundle)}"
        states.append(EngineState(path.stem, refusal is None, refusal or ""))
    return states


def _flavour_of(path: Path) -> str:
    return EngineSidecar.read(path).flavour


def _verdict(diagnosis: Diagnosis) -> tuple[str, str]:
    """The last line, and its style."""
    works = [each.name for each in diagnosis.backends if each.works]
    if not works:
        return "nothing works here yet; each line above says how to fix it", "red"
    if diagnosis.chosen in works:
        return f"samihs-infer will use: {diagnosis.chosen}", "green"
    taken = f"takes {diagnosis.chosen}, which fails" if diagnosis.chosen else "ends in an error"
    return f"samihs-infer {taken} as shown above: give --backend {works[0]}", "yellow"


def _gpu_words(gpu: GpuProbe) -> str:
    if not gpu.devices:
        return f"GPU: none ({gpu.reason})"
    cuda = f"driver supports CUDA {gpu.cuda[0]}.{gpu.cuda[1]}" if gpu.cuda else "driver unknown"
    names = "; ".join(
        f"{each.name}, compute capability {each.compute_capability}, "
        f"{each.memory_bytes / 2**30:.0f} GiB"
        for each in gpu.devices
    )
    return f"GPU: {names} ({cuda})"


def _render_backends(backends: list[BackendState], console: Console) -> None:
    table = Table("backend", "works", "encode", "click")
    for each in backends:
        encode = f"{each.encode_s * 1e3:.1f} ms" if each.encode_s is not None else ""
        answer = f"{each.click_s * 1e3:.1f} ms" if each.click_s is not None else ""
        table.add_row(each.name, "yes" if each.works else "no", encode, answer)
    console.print(table)
    for each in backends:
        _line(console, f"{each.name}: {each.detail}")


def _line(console: Console, text: str, style: str = "") -> None:
    # Text, not markup: 'samihs[cpu]' is not a tag. Soft wrap: a command can be copied whole.
    console.print(Text(text, style=style), soft_wrap=True)


if __name__ == "__main__":
    main()
