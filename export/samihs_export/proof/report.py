"""``REPORT.md``: the limits of an export, the figures reached, and a picture of the worst cases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samihs_export.proof.cases import Answer, ParityCase
from samihs_export.proof.gates import Gates
from samihs_export.proof.parity import mask_iou
from samihs_runtime.bundle.manifest import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT, FIGURE = "REPORT.md", "worst_cases.png"
MAX_FIGURE_BYTES = 300_000
_COLUMNS = ("slice and prompt", "torch", "graph", "difference of logits")
_ROW_INCHES = 1.7
_COLOURS = 192
"""Size of the picture's palette: grey, two outlines, one colour map."""
_MEASURES = {
    "mask_iou_mean": "mask IoU, mean",
    "mask_iou_min": "mask IoU, least",
    "volume_relative": "volume",
    "score_difference": "score",
    "logits_relative": "logits",
    "embedding_relative": "embedding",
}


@dataclass(frozen=True, eq=False)
class WorstCase:
    """Of all cases that one graph pair was run on, the one where it differs most from torch."""

    name: str
    """What was compared with what."""
    number: int
    """Index of the case, from 0."""
    case: ParityCase
    torch: Answer
    graph: Answer
    iou: float

    @property
    def difference(self) -> NDArray[np.floating[Any]]:
        """[M, M]: the graph's logits minus torch's."""
        return np.asarray(self.graph.logits.astype(np.float64) - self.torch.logits)

    @property
    def most(self) -> float:
        """Largest absolute difference of a logit; infinite if a difference is not finite."""
        return float(np.nan_to_num(np.abs(self.difference).max(), nan=np.inf))


def worst_case(
    name: str,
    cases: Sequence[ParityCase],
    reference: Sequence[Answer],
    candidate: Sequence[Answer],
    *,
    masks_judged: bool = True,
) -> WorstCase:
    """The case of lowest mask IoU; among equals, the one whose logits differ most.

    ``masks_judged``: False for random weights, whose masks say little: only the logits count.
    """
    found = [
        WorstCase(name, number, case, ours, theirs, mask_iou(ours.mask, theirs.mask))
        for number, (case, ours, theirs) in enumerate(zip(cases, reference, candidate, strict=True))
    ]
    return max(found, key=lambda each: (-each.iou if masks_judged else 0.0, each.most))


def report_page(
    manifest: Manifest, gates: Mapping[str, Gates], worst: Sequence[WorstCase], figure: bool
) -> str:
    """Markdown.

    Args:
        manifest: of the bundle; the figures are those of its ``parity`` and ``merge``.
        gates: limits by name of the comparison.
        worst: one case for each graph pair.
        figure: whether there is a :data:`FIGURE` beside the page.
    """
    results = manifest.parity["results"]
    parts = [
        f"# Parity of {manifest.name} {manifest.version}",
        _asked(manifest, int(results[0]["cases"])),
        "## Figures and limits\n\n" + _table(results, gates),
        "## Worst cases\n\n" + _worst(worst, figure),
        "## Merge\n\n"
        f"{manifest.merge.get('layers', 0)} layers; worst output residual "
        f"{manifest.merge.get('worst_output_residual', 0.0):.2g}, relative.",
    ]
    return "\n\n".join(parts) + "\n"


def _asked(manifest: Manifest, cases: int) -> str:
    judged = "" if manifest.parity.get("masks_judged") else " Random weights: masks are not judged."
    return (
        f"Asked on {cases} seeded phantom slices with a bleed: a click, two clicks, a box, a click "
        f"with a prior, in turn. Nothing was written unless every limit held.{judged} The same "
        "numbers for machines: `parity.json`. To ask again: `samihs-export verify`."
    )


def _table(results: Sequence[Mapping[str, Any]], gates: Mapping[str, Gates]) -> str:
    lines = ["| compared | measure | value | limit |", "|---|---|---|---|"]
    for result in results:
        limits, name = gates.get(result["name"]), result["name"]
        for key, words in _MEASURES.items():
            limit = getattr(limits, key, None)
            if result[key] is None:
                continue
            bound = "none" if limit is None else f"{'>=' if 'iou' in key else '<='} {limit:.3g}"
            lines.append(f"| {name} | {words} | {result[key]:.4g} | {bound} |")
            name = ""
    return "\n".join(lines)


def _worst(worst: Sequence[WorstCase], figure: bool) -> str:
    picture = f"![worst cases]({FIGURE})\n\n" if figure else ""
    lines = ["| row | compared | case | mask IoU | largest difference of a logit |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {row} | {each.name} | {each.number} | {each.iou:.5f} | {each.most:.3g} |"
        for row, each in enumerate(worst, 1)
    ]
    return picture + "\n".join(lines)


def draw_worst_cases(path: Path, worst: Sequence[WorstCase]) -> bool:
    """Write the picture: a row for each case, at most :data:`MAX_FIGURE_BYTES`.

    Returns:
        False, with nothing written, if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from PIL import Image

    figure = Figure(figsize=(7.0, _ROW_INCHES * len(worst) + 0.3), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)  # untyped in matplotlib
    axes = figure.subplots(len(worst), len(_COLUMNS), squeeze=False)
    for row, each in zip(axes, worst, strict=True):
        _draw_row(row, each)
    for axis, title in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(f"{title}\n{axis.get_title()}".rstrip(), fontsize=7)
    for dpi in (110, 80, 60, 45, 30):
        figure.set_dpi(dpi)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        content = io.BytesIO()
        # Rare colours must be kept: the largest differences cover only a few pixels.
        palette = picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE)
        palette.save(content, "PNG", optimize=True)
        if content.tell() <= MAX_FIGURE_BYTES:
            break
    path.write_bytes(content.getvalue())
    return True


def _draw_row(row: Sequence[Axes], each: WorstCase) -> None:
    low, high = (float(value) for value in each.case.window)
    for axis in row:
        axis.set_axis_off()
    for axis in row[:3]:
        axis.imshow(each.case.hu, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    real = each.case.labels >= 0
    points, labels = each.case.points[real], each.case.labels[real]
    colours = ["tab:red" if label == 0 else "tab:green" for label in labels]
    row[0].scatter(points[:, 0], points[:, 1], s=8, c=colours)
    for axis, answer, colour in ((row[1], each.torch, "tab:cyan"), (row[2], each.graph, "orange")):
        if answer.mask.any() and not answer.mask.all():
            axis.contour(answer.mask, levels=[0.5], colors=[colour], linewidths=0.7)
    most = float(np.abs(each.difference).max()) or 1.0
    row[3].imshow(each.difference, cmap="RdBu_r", vmin=-most, vmax=most)
    label = each.name.partition(" in ")[0]
    row[3].set_title(f"{label}: at most {most:.2g}", fontsize=6)
