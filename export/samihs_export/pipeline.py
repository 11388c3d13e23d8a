"""One export, start to end: merge, graphs, gates, bundle. Nothing is written unless all hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from samihs_export.calibration import calibrate, calibration_cases
from samihs_export.card import model_card
from samihs_export.cases import Answer, ParityCase, phantom_cases, save_reference
from samihs_export.families import Ranges, families, write_graphs
from samihs_export.float_types import Precision
from samihs_export.merge import MergeReport, merge
from samihs_export.parity import ParityResult, advised
from samihs_export.proof import Proof
from samihs_export.quantization import Range
from samihs_export.report import FIGURE, REPORT, WorstCase, draw_worst_cases, report_page
from samihs_export.verify import REFERENCE
from samihs_runtime.bundle import MANIFEST, Bundle, GraphEntry, Manifest, WindowRule, write_bundle
from samihs_runtime.errors import OutputError
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel

NOTHING_WRITTEN = "nothing was written: this is a fault of the export or of the weights"
"""What a failed gate means where it stands before writing."""
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "segment-anything", "numpy")


@dataclass(frozen=True)
class BundleMetadata:
    """What a bundle says of itself, beyond what the model and its figures say."""

    name: str
    version: str
    training_data: str
    window: WindowRule
    intended_use: str = (
        "Research and demonstration of click-prompted segmentation of intracranial hemorrhage on "
        "non-contrast head CT. Not for clinical use."
    )
    score_threshold: float = 0.5
    plausible_hu: tuple[float, float] = (10.0, 110.0)
    """Mean HU of a spot that may be blood: acute blood has 50 to 90, a chronic collection down to
    10; calcification and bone have more. Brain lies within: the score decides there."""
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made."""

    slice_size: int = 512
    precisions: tuple[Precision, ...] = ("fp16",)
    """Graphs for TensorRT, beside ONNX Runtime's fp32; int8 makes one for ONNX Runtime, too."""
    calibration_slices: int = 16
    """Slices on which the ranges of int8 and fp8 are measured; parity's are others."""
    parity_slices: int = 20
    reference_slices: int = 4
    """Cases kept in the bundle, so that ``verify`` can ask again without torch."""
    mirrored: bool = False
    """Ask each slice's mirror image as well: twice the work, and better masks."""
    trained: bool = True
    """False for random weights: masks are then not judged."""


@advised(NOTHING_WRITTEN)
def export_bundle(
    model: SamihsModel,
    pr: PRConfig | None,
    metadata: BundleMetadata,
    out: Path,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Export a model, prove each step, and write the bundle.

    Args:
        model: adapters still in place; a merged or plain model is exported as it is.
        pr: the adapters' options, for the manifest; None for a model without any.
        metadata: what the manifest says.
        out: the bundle's folder; an older bundle there is replaced.
        options: sizes, precisions, number of parity slices.
        progress: told what begins, in words.

    Raises:
        ParityError: a gate failed; nothing was written.
        ExportError: torch or ONNX Runtime refuses a graph.
        OutputError: ``out`` is no bundle, or cannot be written.
    """
    options = options or ExportOptions()
    _check_destination(out)
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
            manifest = _manifest(merged, pr, metadata, options, report, proof, results, entries)
            _write_papers(folder, manifest, proof, options)
            _write_report(folder, manifest, proof, worst)
            return write_bundle(folder, manifest, out)
    except OSError as error:
        raise OutputError(f"the export could not be written: {error}") from error


def _check_destination(out: Path) -> None:
    """What ``write_bundle`` would refuse, said before the minutes of work."""
    if out.exists() and not (out / MANIFEST).is_file() and not (out.is_dir() and _empty(out)):
        raise OutputError(f"{out} exists and is no bundle: name another place with --out")


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
    """The ranges of quantized layers' inputs, measured when first asked for, on the fp32 graph."""

    @cache
    def ranges() -> Mapping[str, Range]:
        cases = calibration_cases(
            options.calibration_slices, slice_size=options.slice_size, window=window
        )
        return calibrate(folder / "onnx" / "encoder.onnx", cases)

    return ranges


def _manifest(
    model: SamihsModel,
    pr: PRConfig | None,
    metadata: BundleMetadata,
    options: ExportOptions,
    report: MergeReport,
    proof: Proof,
    results: Sequence[ParityResult],
    entries: Sequence[GraphEntry],
) -> Manifest:
    config = model.config
    method = {"adapters": "none"} if pr is None else {"adapters": "pr", **_plain(asdict(pr))}
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
        method={**method, "mirrored": True} if config.mirrored else method,
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
    """What a reader wants beside the graphs: parity.json, the model card, torch's own answers."""
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
    """Limits beside figures, and the worst cases."""
    names = [result["name"] for result in manifest.parity["results"]]
    limits = [proof.merge_gates, *(proof.gates(each.precision) for each in manifest.graphs)]
    drawn = draw_worst_cases(folder / FIGURE, worst)
    page = report_page(manifest, dict(zip(names, limits, strict=True)), worst, drawn)
    (folder / REPORT).write_text(page, encoding="utf-8")


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON reads them back."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()
    }
