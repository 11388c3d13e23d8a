"""The model card: the manifest in words, for readers of the bundle's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from samihs_runtime.bundle.manifest import Manifest

LIMITS = (
    "The figures hold for data like those that they were measured on, and for one click each where "
    "nothing else is said. Other images than axial non-contrast head CT were not tried. A person "
    "has to look at each mask, and at what was refused."
)


def model_card(manifest: Manifest) -> str:
    """The card as Markdown; every figure in it is also in the manifest."""
    parts = [
        f"# {manifest.name} {manifest.version}",
        "**Not for clinical use.** No regulatory clearance; no clinical validation.",
        f"## Intended use\n\n{manifest.intended_use}",
        f"## Training data\n\n{manifest.training_data}",
        f"## Model\n\n{_model(manifest)}",
        f"## Accuracy\n\n{_accuracy(manifest.accuracy)}",
        f"## Limits\n\n{LIMITS}",
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
            f"- Score threshold: {_threshold(manifest)}",
        )
    )


def _threshold(manifest: Manifest) -> str:
    """The threshold and its origin, which bundles of older versions do not record."""
    source = manifest.provenance.get("score_threshold")
    warning = ": a guess, which may refuse many good masks" if source == "not measured" else ""
    return f"{manifest.score_threshold:g}" + (f", {source}{warning}" if source else "")


def _accuracy(figures: Mapping[str, Any]) -> str:
    """What ``samihs-evaluate`` wrote: its tables, and a line for every other figure."""
    if not figures:
        return "Not measured at export."
    tables = ("by_type", "by_slice", "reliability", "patients")
    single = {name: each for name, each in figures.items() if name not in tables}
    parts = [f"Measured with `samihs-evaluate`.\n\n{_listed(single)}".rstrip()]
    if "by_type" in figures:
        parts.append(_by_type(figures["by_type"]))
    if "by_slice" in figures:
        parts.append(_by_slice(figures["by_slice"]))
    if "reliability" in figures:
        parts.append(_reliability(figures["reliability"]))
    if "patients" in figures:
        parts.append(_patients(figures["patients"]))
    return "\n\n".join(parts)


_DICE = {"dice": "Dice", "served_dice": "Dice, served"}


def _by_type(types: Mapping[str, Any]) -> str:
    columns = {**_DICE, "hd95_mm": "HD95, mm", "volume_error_ml": "volume error, mL"}
    said = (
        "In brackets the 95 % interval over studies. Served: as the runtime answers, which draws "
        "nothing where the score is below its threshold."
    )
    return f"{said}\n\n{_figures(types, 'clicks', columns)}"


def _by_slice(types: Mapping[str, Any]) -> str:
    columns = {**_DICE, "hd95_mm": "HD95, mm"}
    said = "By slice: the answers to one click on each lesion, united, against all its blood."
    return f"{said}\n\n{_figures(types, 'slices', columns)}"


def _patients(figures: Mapping[str, Any]) -> str:
    """What ``samihs-evaluate --data`` wrote."""
    tables = ("by_slice", "by_patient")
    single = {name: each for name, each in figures.items() if name not in tables}
    lines = ["### On a data set of patients", "", _listed(single), ""]
    if figures.get("data", {}).get("trained_on") == "perhaps":
        lines += ["**The model may have been trained on some of these patients.**", ""]
    lines += ["In brackets the 95 % interval over patients.", ""]
    lines += ["| | by slice | by patient |", "|---|---|---|"]
    lines += [
        f"| {head} | {' | '.join(_estimate(figures[table][name]) for table in tables)} |"
        for name, head in _OF_PATIENTS.items()
        if all(name in figures[table] for table in tables)
    ]
    return "\n".join(lines)


_OF_PATIENTS = {
    "dice": "Dice", "sensitivity": "sensitivity", "hd95_mm": "HD95, mm",
    "nsd_mm": "NSD at 1 mm", "volume_error_ml": "volume error, mL",
}  # fmt: skip


def _figures(types: Mapping[str, Any], counted: str, columns: Mapping[str, str]) -> str:
    """A row for each type of bleeding, with the columns that were measured."""
    measured = {name for found in types.values() for name in found}
    columns = {name: head for name, head in columns.items() if name in measured}
    lines = [f"| bleed | {counted} | {' | '.join(columns.values())} |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for kind, found in types.items():
        cells = (_estimate(found[name]) for name in columns)
        lines.append(f"| {kind} | {found['dice']['count']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _estimate(found: Mapping[str, Any]) -> str:
    """Mean and interval; empty if the mean is null, i.e. could not be measured."""
    if found["mean"] is None:
        return ""
    mean = f"{found['mean']:.3g}"
    if found["low"] is None:
        return mean
    return f"{mean} ({found['low']:.3g} to {found['high']:.3g})"


def _reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "What a score is worth:", "", "| score from | clicks | mean score | mean IoU |",
        "|---|---|---|---|",
        *(
            f"| {each['low']:g} | {each['clicks']} | {each['mean_score']:.2f} | "
            f"{each['mean_iou']:.2f} |"
            for each in bins
        ),
    ]  # fmt: skip
    return "\n".join(lines)


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
    return "\n".join(f"- {key.replace('_', ' ')}: {_text(value)}" for key, value in fields.items())


def _inline(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} ({_text(value)})"
        if isinstance(value, Mapping)
        else f"{key.replace('_', ' ')} {_text(value)}"
        for key, value in fields.items()
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return _inline(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
