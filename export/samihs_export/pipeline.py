"""One export, start to end: merge, graphs, gates, bundle. Nothing is written unless all hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from samihs_export.attention import AttentionForm
from samihs_export.card import model_card
from samihs_export.cases import Answer, ParityCase, phantom_cases, save_reference
from samihs_export.graphs import DecoderGraph, EncoderGraph
from samihs_export.merge import MergeReport, merge
from samihs_export.onnx import export_decoder, export_encoder
from samihs_export.parity import (
    MERGE_GATES,
    ParityResult,
    answers_of_onnx,
    compare,
    gates_for,
    numbers_only,
)
from samihs_export.precision import Precision, to_precision
from samihs_export.reference import answers_of_model
from samihs_export.verify import REFERENCE
from samihs_runtime.bundle import MANIFEST, Bundle, GraphEntry, Manifest, WindowRule, write_bundle
from samihs_runtime.errors import OutputError
from samihs_training.adapters import PRConfig
from samihs_training.model import SamihsModel

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
    trt_precisions: tuple[Precision, ...] = ("fp16",)
    """Graphs for TensorRT, beside ONNX Runtime's fp32."""
    parity_slices: int = 20
    reference_slices: int = 4
    """Cases kept in the bundle, so that ``verify`` can ask again without torch."""
    trained: bool = True
    """False for random weights: masks are then not judged."""


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
    progress("merging adapters")
    merged, report = merge(model)
    progress(f"drawing {options.parity_slices} phantom slices")
    cases = _cases(merged, metadata.window, options)
    progress("asking torch, adapted and merged")
    reference, merge_result = _prove_merge(model, merged, cases, options)
    results = [merge_result]
    try:
        with tempfile.TemporaryDirectory(prefix="samihs-export-") as scratch:
            folder = Path(scratch) / "files"
            folder.mkdir()  # unlike the scratch folder, readable by all, as the bundle will be
            entries = []
            for family, precision in _families(options):
                progress(f"exporting and proving {family} {precision}")
                entry = _write_graphs(folder, merged, family, precision, options.slice_size)
                results.append(_prove_onnx(folder, entry, cases, reference, options))
                entries.append(entry)
            progress("writing the bundle")
            manifest = _manifest(merged, pr, metadata, options, report, results, entries)
            _write_papers(folder, manifest, results, cases, reference, options)
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


def _prove_merge(
    adapted: SamihsModel, merged: SamihsModel, cases: Sequence[ParityCase], options: ExportOptions
) -> tuple[list[Answer], ParityResult]:
    """The adapted model's answers, which every later step is held against, and the first gate."""
    reference = answers_of_model(adapted, cases)
    result = compare(
        "merged torch against adapted torch", reference, answers_of_model(merged, cases)
    )
    result.require(MERGE_GATES if options.trained else numbers_only(MERGE_GATES))
    return reference, result


def _families(options: ExportOptions) -> list[tuple[str, Precision]]:
    return [("onnx", "fp32"), *(("trt", precision) for precision in options.trt_precisions)]


def _attention_form(family: str, precision: Precision) -> AttentionForm:
    """The form that runs best: measured for ONNX Runtime; no TensorRT kernel attends in fp32."""
    return "augmented" if family == "trt" and precision != "fp32" else "bias"


def _write_graphs(
    folder: Path, merged: SamihsModel, family: str, precision: Precision, slice_size: int
) -> GraphEntry:
    place = f"{family}/{precision}" if family == "trt" else family
    entry = GraphEntry(family, precision, f"{place}/encoder.onnx", f"{place}/decoder.onnx")
    encoder = EncoderGraph(merged, _attention_form(family, precision))
    export_encoder(to_precision(encoder, precision), slice_size, folder / entry.encoder)
    decoder = to_precision(DecoderGraph(merged, slice_size), precision)
    export_decoder(decoder, merged.config, folder / entry.decoder)
    return entry


def _prove_onnx(
    folder: Path,
    entry: GraphEntry,
    cases: Sequence[ParityCase],
    reference: Sequence[Answer],
    options: ExportOptions,
) -> ParityResult:
    answers = answers_of_onnx(folder / entry.encoder, folder / entry.decoder, cases)
    name = f"{entry.family} {entry.precision} in ONNX Runtime against torch"
    result = compare(name, reference, answers)
    result.require(gates_for(entry.precision, trained=options.trained))
    return result


def _manifest(
    model: SamihsModel,
    pr: PRConfig | None,
    metadata: BundleMetadata,
    options: ExportOptions,
    report: MergeReport,
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
        embedding_channels=config.embedding_channels,
        window=metadata.window,
        score_threshold=metadata.score_threshold,
        plausible_hu=metadata.plausible_hu,
        graphs=tuple(entries),
        method={"adapters": "none"} if pr is None else {"adapters": "pr", **_plain(asdict(pr))},
        merge=report.summary(),
        parity={
            "masks_judged": options.trained,
            "results": [result.summary() for result in results],
        },
        accuracy=dict(metadata.accuracy),
        provenance={**metadata.provenance, "tools": tools},
    )


def _write_papers(
    folder: Path,
    manifest: Manifest,
    results: Sequence[ParityResult],
    cases: Sequence[ParityCase],
    reference: Sequence[Answer],
    options: ExportOptions,
) -> None:
    """What a reader wants beside the graphs: parity.json, the model card, torch's own answers."""
    parity = {
        "slices": "seeded phantoms with a bleed; a click, two clicks, a box, a click with a prior",
        "masks_judged": options.trained,
        "gates": {
            "merge": asdict(MERGE_GATES),
            **{str(each): asdict(gates_for(each)) for _, each in _families(options)},
        },
        "results": [result.summary() for result in results],
    }
    text = json.dumps(parity, indent=2) + "\n"
    (folder / "parity.json").write_text(text, encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(manifest), encoding="utf-8")
    kept = options.reference_slices
    save_reference(folder / REFERENCE, cases[:kept], reference[:kept])


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON reads them back."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()
    }
