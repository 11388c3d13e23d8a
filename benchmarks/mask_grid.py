"""How well a mask of M x M cells can follow a lesion, where each cell is in or out.

    python benchmarks/mask_grid.py [--studies 30]

Each lesion of phantom studies of unseen seeds is drawn with the cells that training asks for
(``objective.low_resolution``), enlarged as the decoder enlarges its logits, and held against
itself. Logits that follow the share of a cell that is covered do better (docs/model.md).
"""

from __future__ import annotations

import torch
from record import Record, Series, command_line
from torch import Tensor

from samihs_training.data.studies import StudySpec, is_bleed, study_slices
from samihs_training.network.model import mask_at_slice_size
from samihs_training.objective import low_resolution

SIDES = (128, 192, 256)


def measure(studies: int = 30) -> Record:
    """Dice of every lesion at every mask size; ``subject`` is the type of bleed."""
    torch.set_num_threads(1)  # the studies are made beside it
    taken: dict[tuple[str, str, str], list[float]] = {}
    for each in study_slices(StudySpec(studies), workers=2):
        for target in filter(is_bleed, each.clicks):
            truth = torch.from_numpy(target.mask[None, None])
            kind = target.kind.name.lower()
            area = float(target.mask.sum()) * each.spacing_mm**2
            taken.setdefault((kind, "area of a lesion on a slice", "mm2"), []).append(area)
            for side in SIDES:
                dice = _dice(mask_at_slice_size(_drawn(truth, side), truth.shape[-1]), truth)
                for subject in (kind, "all"):
                    taken.setdefault((subject, f"Dice, {side} cells", ""), []).append(dice)
    series = [Series(name, what, unit, tuple(v)) for (name, what, unit), v in taken.items()]
    return Record("mask-grid", tuple(series), {"studies": studies})


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
