"""The model card: the manifest in words, for whoever opens the bundle's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samihs_runtime.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown; every figure in it stands in the manifest, too."""
    parts = [
        f"# {manifest.name} {manifest.version}",
        "**Not for clinical use.** No regulatory clearance; no clinical validation.",
        f"## Intended use\n\n{manifest.intended_use}",
        f"## Training data\n\n{manifest.training_data}",
        f"## Model\n\n{_model(manifest)}",
        f"## Accuracy\n\n{_listed(manifest.accuracy) or 'Not measured at export.'}",
        f"## Parity\n\n{_parity(manifest.parity)}",
        f"## Provenance\n\n{_listed(manifest.provenance)}",
    ]
    return "\n\n".join(parts) + "\n"


def _model(manifest: Manifest) -> str:
    window = manifest.window
    unit = "HU" if window.rule == "fixed" else "percentiles of the slice"
    graphs = ", ".join(f"{each.family} {each.precision}" for each in manifest.graphs)
    return "\n".join(
        (
            f"- Preset {manifest.preset}: {manifest.image_size} px frame, {manifest.grid} x "
            f"{manifest.grid} tokens, {manifest.embedding_channels} channels",
            f"- Adaptation: {_inline(manifest.method)}, {manifest.merge.get('layers', 0)} layers "
            f"merged, worst residual {manifest.merge.get('worst_output_residual', 0.0):.2g}",
            f"- Input: slices of {manifest.slice_size} x {manifest.slice_size} pixels, window "
            f"{window.low:g} to {window.high:g} {unit}",
            f"- Graphs: {graphs}",
        )
    )


def _parity(parity: Mapping[str, Any]) -> str:
    lines = [
        "| compared | slices | mask IoU, mean | mask IoU, least | logits, relative |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['name']} | {each['cases']} | {each['mask_iou_mean']:.5f} | "
        f"{each['mask_iou_min']:.5f} | {each['logits_relative']:.1e} |"
        for each in parity["results"]
    ]
    return "\n".join(lines)


def _listed(fields: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {key.replace('_', ' ')}: {_inline(value) if isinstance(value, Mapping) else value}"
        for key, value in fields.items()
    )


def _inline(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in fields.items())
