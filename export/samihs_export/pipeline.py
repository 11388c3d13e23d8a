"""An export from start to end: merge, graphs, gates, bundle. Nothing is written unless all hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import metadata as packages
from pathlib import Path

from samihs_export.card import model_card
from samihs_export.float_types import Precision
from samihs_export.graphs.calibration import calibrate, calibration_cases
from samihs_export.graphs.families import Ranges, families, write_graphs
from samihs_export.graphs.quantization import Range
from samihs_export.merge import MergeReport, merge
from samihs_export.metadata import BundleMetadata
from samihs_export.proof.cases import Answer, ParityCase, phantom_cases, save_reference
from samihs_export.proof.export_proof import Proof
from samihs_export.proof.parity import ParityResult, advised
from samihs_export.proof.report import FIGURE, REPORT, WorstCase, draw_worst_cases, report_page
from samihs_export.verify import REFERENCE
from samihs_runtime.bundle import (
    ADAPTERS,
    ENGINES,
    MANIFEST,
    Bundle,
    GraphEntry,
    Manifest,
    WindowRule,
    write_bundle,
)
from samihs_runtime.errors import OutputError
from samihs_training.network.model import SamihsModel

NOTHING_WRITTEN = "nothing was written: this is a fault of the export or of the weights"
"""What a gate that fails before writing means."""
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "segment-anything", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made."""

    slice_size: int = 512
    precisions: tuple[Precision, ...] = ("fp16",)
    """Graphs for TensorRT, besides ONNX Runtime's fp32; int8 also adds one for ONNX Runtime."""
    calibration_slices: int = 16
    """Slices on which the ranges of int8 and fp8 are measured; none of those of parity."""
    parity_slices: int = 20
    reference_slices: int = 4
    """Cases kept in the bundle, so that ``verify`` can repeat the check without torch."""
    mirrored: bool = False
    """Answer for each slice's mirror image as well: twice the work, and better masks."""
    trained: bool = True
    """False for random weights: masks are then not judged."""


@advised(NOTHING_WRITTEN)
def export_bundle(
    model: SamihsModel,
    metadata: BundleMetadata,
    out: Path,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda step: None,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Export a model, prove each step, and write the bundle.

    Args:
        model: with its adapters still in place; a merged or plain model is exported as it is.
        metadata: descriptive fields of the manifest.
        out: the bundle's folder; an older bundle there is replaced, and its engines are deleted.
        options: sizes, precisions, number of parity slices.
        progress: called with the name of each step as it begins.
        overwrite: whether an older bundle that holds other sites' adapters may be replaced.

    Raises:
        ParityError: a gate failed; nothing was written.
        ExportError: torch or ONNX Runtime rejects a graph.
        OutputError: ``out`` is not a bundle, holds other sites' adapters, or cannot be written.
    """
    options, out = options or ExportOptions(), out.resolve()
    check_destination(out, overwrite=overwrite)
    model = model.mirrored() if options.mirrored else model
    wanted = families(options.precisions)
    progress("merging adapters")
    merged, report = merge(model)
    progress(f"drawing {options.parity_slices} phantom slices")
    cases = _cases(merged, metadata.window, options)
    progress("asking torch, adapted and merged")
    proof = Proof.of(model, cases, trained=options.trained)
    results = [proof.prove_merge(merged)]
    try:
        with tempfile.TemporaryDirectory(prefix="samihs-export-") as scratch:
            folder = Path(scratch) / "files"
            folder.mkdir()  # unlike the scratch folder, readable by all, as the bundle will be
            ranges = _calibrated(folder, metadata.window, options)
            entries: list[GraphEntry] = []
            worst: list[WorstCase] = []

            def witness(name: str, answers: Sequence[Answer]) -> None:
                worst.append(proof.worst_case(name, answers))

            for family, precision in wanted:
                progress(f"exporting and proving {family} {precision}")
                entry = write_graphs(folder, merged, family, precision, options.slice_size, ranges)
                results.append(proof.prove_graph(folder, entry, merged, witness))
                entries.append(entry)
            progress("writing the bundle")
            manifest = _manifest(merged, metadata, options, report, proof, results, entries)
            _write_papers(folder, manifest, proof, options)
            _write_report(folder, manifest, proof, worst)
            # Asked again under the bundle's lock: a site may have been added since.
            refuse = partial(_check_sets, overwrite=overwrite)
            return write_bundle(folder, manifest, out, may_replace=refuse)
    except OSError as error:
        raise OutputError(f"the export could not be written: {error}") from error


def check_destination(out: Path, *, overwrite: bool = False) -> list[str]:
    """Refuse what ``write_bundle`` would refuse, but before minutes of work; list what is lost.

    Args:
        out: where the bundle will be written.
        overwrite: whether other sites' adapters may be lost with an existing bundle.

    Returns:
        Names of the engines that would be deleted with an existing bundle.

    Raises:
        OutputError: ``out`` exists and is not a bundle, holds other sites' adapters, or cannot be
            written.
    """
    try:
        if out.exists() and not (out / MANIFEST).is_file() and not (out.is_dir() and _empty(out)):
            raise OutputError(f"{out} exists and is no bundle: name another place with --out")
        # Only trying shows whether a folder can be written: permissions alone do not decide it.
        beside = next(each for each in out.parents if each.exists())
        tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=beside).cleanup()
        _check_sets(out, overwrite=overwrite)
        engines = sorted(each.name for each in (out / ENGINES).glob("*.engine"))
    except OSError as error:
        raise OutputError(
            f"cannot write beside {out}: {error.strerror or error}; name another place with --out"
        ) from error
    return engines


def _check_sets(out: Path, *, overwrite: bool) -> None:
    """Refuse to lose other sites' adapters with a bundle. Raises OutputError."""
    sets = sorted(each.name for each in (out / ADAPTERS).glob("*"))
    if sets and not overwrite:
        raise OutputError(
            f"{out} holds other sites' adapters, which would be lost: {', '.join(sets)}; name "
            "another place with --out, or --overwrite to lose them"
        )


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _cases(model: SamihsModel, window: WindowRule, options: ExportOptions) -> list[ParityCase]:
    return phantom_cases(
        options.parity_slices,
        slice_size=options.slice_size,
        mask_size=model.config.mask_size,
        window=window,
    )


def _calibrated(folder: Path, window: WindowRule, options: ExportOptions) -> Ranges:
    """The ranges of quantized layers' inputs, measured at first use, on the fp32 graph."""

    @cache
    def ranges() -> Mapping[str, Range]:
        cases = calibration_cases(
            options.calibration_slices, slice_size=options.slice_size, window=window
        )
        return calibrate(folder / "onnx" / "encoder.onnx", cases)

    return ranges


def _manifest(
    model: SamihsModel,
    metadata: BundleMetadata,
    options: ExportOptions,
    report: MergeReport,
    proof: Proof,
    results: Sequence[ParityResult],
    entries: Sequence[GraphEntry],
) -> Manifest:
    config = model.config
    tools = {name: packages.version(name) for name in _TOOLS}
    return Manifest(
        name=metadata.name,
        version=metadata.version,
        preset=config.name,
        intended_use=metadata.intended_use,
        training_data=metadata.training_data,
        clinical_use=False,
        slice_size=options.slice_size,
        image_size=config.image_size,
        grid=config.grid,
        mask_cells=config.mask_size // config.grid,
        embedding_channels=config.embedding_channels,
        window=metadata.window,
        score_threshold=metadata.score_threshold,
        plausible_hu=metadata.plausible_hu,
        graphs=tuple(entries),
        method={**metadata.method, **({"mirrored": True} if config.mirrored else {})},
        merge=report.summary(),
        parity={
            "masks_judged": options.trained,
            **({"float32_own_error": asdict(proof.own)} if proof.own else {}),
            "results": [result.summary() for result in results],
        },
        accuracy=dict(metadata.accuracy),
        provenance={**metadata.provenance, "tools": tools},
    )


def _write_papers(folder: Path, manifest: Manifest, proof: Proof, options: ExportOptions) -> None:
    """Write what belongs beside the graphs: parity.json, the model card, torch's answers."""
    parity = {
        "slices": "seeded phantoms with a bleed; a click, two clicks, a box, a click with a prior",
        **manifest.parity,
        "gates": {
            "merge": asdict(proof.merge_gates),
            **{str(each): asdict(proof.gates(each)) for _, each in families(options.precisions)},
        },
    }
    text = json.dumps(parity, indent=2) + "\n"
    (folder / "parity.json").write_text(text, encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(manifest), encoding="utf-8")
    kept = options.reference_slices
    save_reference(folder / REFERENCE, proof.cases[:kept], proof.reference[:kept])


def _write_report(
    folder: Path, manifest: Manifest, proof: Proof, worst: Sequence[WorstCase]
) -> None:
    """Write the report: figures with their limits, and the worst cases."""
    names = [result["name"] for result in manifest.parity["results"]]
    limits = [proof.merge_gates, *(proof.gates(each.precision) for each in manifest.graphs)]
    drawn = draw_worst_cases(folder / FIGURE, worst)
    page = report_page(manifest, dict(zip(names, limits, strict=True)), worst, drawn)
    (folder / REPORT).write_text(page, encoding="utf-8")
