"""Is a bundle still what its export proved? Hashes, and torch's answers asked again of each graph.

Needs no torch: the answers lie in the bundle.
"""

from __future__ import annotations

from pathlib import Path

from samihs_export.cases import load_reference
from samihs_export.gates import Gates, OwnError, gates_for
from samihs_export.parity import NOT_IN_ONNX_RUNTIME, ParityResult, answers_of_onnx, compare
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BundleError

REFERENCE = "parity_reference.npz"


def verify_bundle(path: Path) -> tuple[Bundle, list[ParityResult]]:
    """Open the bundle (every hash), run every graph in ONNX Runtime, hold the gates.

    bfloat16 graphs, which ONNX Runtime's CPU does not compute, are checked by their hash alone.

    Raises:
        BundleError: changed, incomplete, or without a parity reference.
        ParityError: a graph no longer answers as torch did.
    """
    bundle = Bundle.open(path)
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(f"bundle {path} holds no {REFERENCE}: export it with samihs-export")
    cases, reference = load_reference(bundle.root / REFERENCE)
    results = []
    for entry in bundle.manifest.graphs:
        if entry.precision in NOT_IN_ONNX_RUNTIME:
            continue
        answers = answers_of_onnx(bundle.root / entry.encoder, bundle.root / entry.decoder, cases)
        name = f"{entry.family} {entry.precision} in ONNX Runtime against torch"
        result = compare(name, reference, answers)
        result.require(_gates(bundle, entry.precision))
        results.append(result)
    return bundle, results


def _gates(bundle: Bundle, precision: str) -> Gates:
    """Those of the export. Bundles of random weights say by how much float32 itself errs."""
    parity = bundle.manifest.parity
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
