"""Which model a record's figures belong to: hashes of the weights that answered or were timed.

``adapters_sha256`` and ``base_sha256`` identify the weights, and ``mirrored`` says that they also
answered for the mirror image. ``bundle_id`` changes with the texts and graphs of a bundle as well;
it counts only if the bundle does not record what it was exported from.
"""

from __future__ import annotations

from collections.abc import Mapping

from samihs_runtime.bundle import Bundle, shipped_bundle

OF_CHECKPOINTS = ("adapters_sha256", "base_sha256")
UNKNOWN = {"bundle_id": "not recorded"}
"""For a record whose bundle was not recorded."""


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
    """Whether both are the same weights; unknown weights equal only unknown weights."""
    return identity(one) == identity(other)


def of_others(weights: Mapping[str, str], shipped: Mapping[str, str]) -> bool:
    """Whether a record belongs to a model other than the shipped one."""
    return bool(weights) and not same(weights, shipped)


def identity(weights: Mapping[str, str]) -> dict[str, str]:
    """The hashes that identify the weights."""
    if not any(key in weights for key in OF_CHECKPOINTS):
        return dict(weights)
    return {key: value for key, value in weights.items() if key != "bundle_id"}
