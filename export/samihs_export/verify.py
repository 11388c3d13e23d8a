"""Is a bundle still what its export proved? Hashes, and torch's answers asked again of each graph.

Needs no torch: the answers lie in the bundle.
"""

from __future__ import annotations

from pathlib import Path

from samihs_export.cases import load_reference
from samihs_export.parity import ParityResult, answers_of_onnx, compare, gates_for
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BundleError

REFERENCE = "parity_reference.npz"


def verify_bundle(path: Path) -> tuple[Bundle, list[ParityResult]]:
    """Open the bundle (every hash), run every graph in ONNX Runtime, hold the gates.

    Raises:
        BundleError: changed, incomplete, or without a parity reference.
        ParityError: a graph no longer answers as torch did.
    """
    bundle = Bundle.open(path)
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(f"bundle {path} holds no {REFERENCE}: export it with samihs-export")
    cases, reference = load_reference(bundle.root / REFERENCE)
    trained = _masks_were_judged(bundle)
    results = []
    for entry in bundle.manifest.graphs:
        answers = answers_of_onnx(bundle.root / entry.encoder, bundle.root / entry.decoder, cases)
        name = f"{entry.family} {entry.precision} in ONNX Runtime against torch"
        result = compare(name, reference, answers)
        result.require(gates_for(entry.precision, trained=trained))
        results.append(result)
    return bundle, results


def _masks_were_judged(bundle: Bundle) -> bool:
    return bool(bundle.manifest.parity.get("masks_judged", True))
