"""How well a mask of M x M cells can follow a lesion if each cell is either in or out.

    python benchmarks/mask_grid.py [--studies 30]

Each lesion of phantom studies of unseen seeds is drawn with the cells of the training target
(``objective.low_resolution``), enlarged as the decoder enlarges its logits, and compared with
itself. Logits that follow the covered share of a cell do better (docs/model.md).
"""

from __future__ import annotations

import torch
from accuracy import ALL, CLICKS
from record import Record, Series, command_line
from torch import Tensor
from torch_threads import torch_threads

from samihs_training.data.studies import StudySpec, is_bleed, study_slices
from samihs_training.network.model import mask_at_slice_size
from samihs_training.stages.objective import low_resolution

SIDES = (128, 192, 256)


def measure(studies: int = 30) -> Record:
    """Dice of every lesion at every mask size, which is the subject."""
    with torch_threads(1):  # other processes make the studies
        series = _figures(studies)
    return Record("mask-grid", series, {"studies": studies, "per": "lesion"})


def _figures(studies: int) -> tuple[Series, ...]:
    """Study, area and Dice of each lesion, by subject and type of bleed."""
    taken: dict[tuple[str, str, str], list[float]] = {}
    for each in study_slices(StudySpec(studies), workers=2):
        for target in filter(is_bleed, each.clicks):
            truth = torch.from_numpy(target.mask[None, None])
            figures = {
                (CLICKS, "study", ""): float(each.study),
                (CLICKS, "area", "mm2"): float(target.mask.sum()) * each.spacing_mm**2,
            }
            for side in SIDES:
                drawn = mask_at_slice_size(_drawn(truth, side), truth.shape[-1])
                figures[f"{side} x {side} cells", "Dice", ""] = _dice(drawn, truth)
            for (subject, measure, unit), value in figures.items():
                for kind in (target.kind.name.lower(), ALL):
                    taken.setdefault((subject, f"{measure}, {kind}", unit), []).append(value)
    return tuple(Series(name, what, unit, tuple(v)) for (name, what, unit), v in taken.items())


def _drawn(truth: Tensor, side: int) -> Tensor:
    return low_resolution(truth, side) - 0.5


def _dice(mask: Tensor, truth: Tensor) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=30)
    options = parser.parse_args()
    print(f"written  {measure(options.studies).write(options.results)}")


if __name__ == "__main__":
    main()
