"""Whose figures a record holds: hashes of the weights that answered or were timed.

``adapters_sha256`` and ``base_sha256`` say which weights they are, and ``mirrored`` that they were
asked for the mirror image, too; ``bundle_id`` is that of a bundle, which changes with its texts and
graphs as well, and counts only where a bundle does not say what it was exported from.
"""

from __future__ import annotations

from collections.abc import Mapping

from samihs_runtime.bundle import Bundle, shipped_bundle

OF_CHECKPOINTS = ("adapters_sha256", "base_sha256")
UNKNOWN = {"bundle_id": "not recorded"}
"""Of a record whose bundle nobody wrote down."""


def of_bundle(bundle: Bundle) -> dict[str, str]:
    """The hashes of a bundle."""
    manifest = bundle.manifest
    found = {"bundle_id": bundle.id}
    found |= {k: manifest.provenance[k] for k in OF_CHECKPOINTS if k in manifest.provenance}
    return found | ({"mirrored": "yes"} if manifest.mirrored else {})


def of_shipped() -> dict[str, str]:
    """The hashes of the shipped bundle."""
    return of_bundle(Bundle.open(shipped_bundle()))


def same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether both are of the same weights; unknown ones are like no others but unknown ones."""
    return identity(one) == identity(other)


def of_others(weights: Mapping[str, str], shipped: Mapping[str, str]) -> bool:
    """Whether a record is of a model, and of another than the shipped one."""
    return bool(weights) and not same(weights, shipped)


def identity(weights: Mapping[str, str]) -> dict[str, str]:
    """What of the hashes tells weights apart."""
    if not any(key in weights for key in OF_CHECKPOINTS):
        return dict(weights)
    return {key: value for key, value in weights.items() if key != "bundle_id"}
