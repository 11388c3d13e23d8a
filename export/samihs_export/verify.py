"""Check that a bundle is still what its export proved: its hashes, and torch's answers.

Needs no torch: torch's answers are stored in the bundle, those of an adapter set beside its
tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from samihs_runtime.bundle import AdapterSet, Bundle, GraphEntry
from samihs_runtime.errors import BundleError

REFERENCE = "parity_reference.npz"


@advised("export the bundle again, or build its engines again")
def verify_bundle(path: Path, backend: str | None = None) -> tuple[Bundle, list[ParityResult]]:
    """Open the bundle (checks every hash), run every graph in ONNX Runtime, and apply the gates.

    First with the bundle's own adapters, then with every set. bfloat16 graphs, which ONNX Runtime
    does not compute on the CPU, are checked by their hash alone.

    Args:
        path: the bundle's folder.
        backend: also check this backend of the runtime, such as ``tensorrt``: its engines, refitted
            for each set.

    Raises:
        BundleError: changed, incomplete, or without a parity reference.
        BackendError: the named backend cannot run.
        ParityError: a graph no longer answers as torch did.
    """
    bundle = Bundle.open(path)
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(f"bundle {path} holds no {REFERENCE}: export it with samihs-export")
    results = []
    for name in (None, *(each.name for each in bundle.manifest.adapter_sets)):
        chosen = bundle.with_adapters(name)
        results += list(_graphs_asked(chosen))
        if backend is not None:
            results.append(_backend_asked(chosen, backend))
    return bundle, results


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
