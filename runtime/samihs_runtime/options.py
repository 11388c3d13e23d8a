"""What ``samihs-infer`` was asked to do: how to run, and what was clicked on.

Importing this module loads neither numpy nor a backend, so that the command's ``--help`` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samihs_runtime.patient_points import PatientRequest
    from samihs_runtime.prompts import Request
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.writers import WriteOptions


@dataclass(frozen=True)
class Options:
    """How the command runs, whatever was clicked on."""

    bundle: Path | None
    backend: str
    out: Path
    formats: tuple[str, ...]
    propagation: bool
    write: WriteOptions
    store: Path | None = None
    """Folder that keeps embeddings for the next click on the same study; None keeps none."""
    adapters: str | None = None
    """One of the bundle's adapter sets; None for its own adapters."""
    precision: str | None = None
    """Of graphs and engines; None leaves the choice to the backend."""
    score_threshold: float | None = None
    """Lowest score that counts as found; None for the bundle's own."""
    lesion_number: int = 1
    """Number of the lesion among those of its study that are asked for in one run."""


@dataclass(frozen=True)
class Click:
    """One lesion to look for in one study."""

    study: Path
    series: str | None
    request: Request | PatientRequest


def open_segmenter(options: Options) -> Segmenter:
    """The segmenter that the options name; the caller must close it.

    Raises:
        UsageError: the score threshold is not between 0 and 1.
        BundleError: the bundle is missing, changed or unsafe, or has no such adapters or precision.
        OutputError: the store cannot be written.
        BackendError: no backend can run, or the named one cannot; gives the reason for each.
    """
    from samihs_runtime.segmenter import Segmenter

    return Segmenter.from_bundle(
        options.bundle,
        options.backend,
        store=options.store,
        adapters=options.adapters,
        precision=options.precision,
        score_threshold=options.score_threshold,
    )
