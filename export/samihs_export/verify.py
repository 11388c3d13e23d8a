"""Check that a bundle is still what its export proved: its hashes, and torch's answers.

Needs no torch: torch's answers are stored in the bundle, those of an adapter set beside its
tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samihs_export.proof.cases import load_reference
from samihs_export.proof.gates import Gates, OwnError, gates_for
from samihs_export.proof.parity import (
    NOT_IN_ONNX_RUNTIME,
    ParityResult,
    advised,
    answers_of_backend,
    answers_of_onnx,
    compare,
)
from samihs_runtime.backends.choose import choose
from samihs_runtime.backends.exchange import exchanged_graph, exchanged_tensors
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.backends.tensorrt_engines import find_engines, sidecars
from samihs_runtime.bundle import AdapterSet, Bundle, GraphEntry
from samihs_runtime.errors import BackendError, BundleError

REFERENCE = "parity_reference.npz"


@dataclass(frozen=True)
class Verified:
    """A bundle that is what its export proved."""

    bundle: Bundle
    results: tuple[ParityResult, ...]
    """Every comparison with torch, each within its gates."""
    not_run: tuple[str, ...] = ()
    """Engines that were not compared: their precision, or their name, and why they do not fit."""


@advised("export the bundle again, or build its engines again")
def verify_bundle(path: Path, backend: str | None = None) -> Verified:
    """Open the bundle (checks every hash), run every graph in ONNX Runtime, and apply the gates.

    First with the bundle's own adapters, then with every set. bfloat16 graphs, which ONNX Runtime
    does not compute on the CPU, are checked by their hash alone.

    Args:
        path: the bundle's folder.
        backend: also check this backend of the runtime. ``tensorrt``: the engines of every
            precision, refitted for each set; ``cpu``: the graphs of every precision; ``cuda``: the
            graphs that it takes by itself, which are fp32.

    Raises:
        BundleError: changed, incomplete, or without a parity reference.
        BackendError: the named backend cannot run: no GPU, or no engines of any precision fit.
        ParityError: a graph or an engine no longer answers as torch did.
    """
    bundle = Bundle.open(path)
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(f"bundle {path} holds no {REFERENCE}: export it with samihs-export")
    results: list[ParityResult] = []
    not_run: list[str] = []
    for name in (None, *(each.name for each in bundle.manifest.adapter_sets)):
        chosen = bundle.with_adapters(name)
        results += list(_graphs_asked(chosen))
        if backend is not None:
            asked, others = _asked(chosen, backend)
            results += [_backend_asked(each, backend) for each in asked]
            not_run += others
    return Verified(bundle, tuple(results), tuple(dict.fromkeys(not_run)))


def _graphs_asked(bundle: Bundle) -> Iterator[ParityResult]:
    cases, reference = load_reference(bundle.root / _reference(bundle))
    for entry in bundle.manifest.graphs:
        if entry.precision in NOT_IN_ONNX_RUNTIME or not _serves(bundle.adapters, entry):
            continue
        encoder, decoder = _graphs(bundle, entry)
        answers = answers_of_onnx(encoder, decoder, cases)
        name = f"{entry.family} {entry.precision} in ONNX Runtime against torch{_of(bundle)}"
        result = compare(name, reference, answers)
        result.require(_gates(bundle, entry.precision))
        yield result


def _asked(bundle: Bundle, backend: str) -> tuple[list[Bundle], list[str]]:
    """The bundle with each precision that the backend is to run; the others, and why they are not.

    If there is none, the bundle itself: opening the backend then says why.
    """
    precisions: list[str] = []  # cuda: what it takes unasked, which is fp32
    not_run: list[str] = []
    if backend == "tensorrt":
        precisions, not_run = _fitting(bundle)
    elif backend == "cpu":
        graphs = [each for each in bundle.manifest.graphs if each.family == "onnx"]
        precisions = [each.precision for each in graphs if _serves(bundle.adapters, each)]
    return [bundle.with_precision(each) for each in precisions] or [bundle], not_run


def _fitting(bundle: Bundle) -> tuple[list[str], list[str]]:
    """The precisions of which engines fit this machine; the others, and why they do not."""
    from samihs_runtime.backends.tensorrt import first_gpu

    capability = first_gpu().compute_capability
    built, not_run = _built(bundle)
    fitting = []
    for precision in built:
        try:
            find_engines(bundle.with_precision(precision), capability)
        except (BackendError, BundleError) as error:
            not_run.append(f"tensorrt {precision}{_of(bundle)}: {error}")
        else:
            fitting.append(precision)
    return fitting, not_run


def _built(bundle: Bundle) -> tuple[list[str], list[str]]:
    """The precisions of its engines, if they take the adapters; and which sidecar is unreadable."""
    found: set[str] = set()
    unread = []
    for path in sidecars(bundle):
        try:
            found.add(EngineSidecar.read(path).precision)
        except BackendError as error:
            unread.append(f"tensorrt {path.stem}: {error}")
    if bundle.adapters is not None:
        found &= {each.precision for each in bundle.adapters.tensors if each.family == "trt"}
    return sorted(found), unread


def _backend_asked(bundle: Bundle, backend: str) -> ParityResult:
    cases, reference = load_reference(bundle.root / _reference(bundle))
    with choose(bundle, backend).backend as opened:
        answers = answers_of_backend(opened, cases)
        precision = opened.precision
        name = f"{opened.name} {precision} against torch{_of(bundle)}"
    result = compare(name, reference, answers)
    result.require(_gates(bundle, precision))
    return result


def _reference(bundle: Bundle) -> str:
    return REFERENCE if bundle.adapters is None else bundle.adapters.reference


def _of(bundle: Bundle) -> str:
    return "" if bundle.adapters is None else f", adapters {bundle.adapters.name}"


def _serves(adapters: AdapterSet | None, entry: GraphEntry) -> bool:
    pair = (entry.family, entry.precision)
    return adapters is None or pair in [(e.family, e.precision) for e in adapters.tensors]


def _graphs(bundle: Bundle, entry: GraphEntry) -> Iterator[Path | bytes]:
    """Encoder and decoder: the files, or their content with the tensors of the set."""
    for part in ("encoder", "decoder"):
        path = bundle.root / getattr(entry, part)
        tensors = exchanged_tensors(bundle, entry.family, entry.precision, part)
        yield path if tensors is None else exchanged_graph(path, tensors)


def _gates(bundle: Bundle, precision: str) -> Gates:
    """The gates of the export. Bundles of random weights record float32's own error."""
    about = bundle.manifest if bundle.adapters is None else bundle.adapters
    parity: Mapping[str, Any] = about.parity
    own = parity.get("float32_own_error")
    if own is None:
        return gates_for(precision, trained=bool(parity.get("masks_judged", True)))
    try:
        return OwnError(float(own["embedding"]), float(own["logits"])).gates(precision)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"bundle {bundle.root}: parity.float32_own_error is {own!r}, expected the numbers "
            "embedding and logits; export the bundle again"
        ) from error
