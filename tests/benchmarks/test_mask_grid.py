"""How well cells follow lesions: finer cells do better, and the study of each lesion is kept."""

from __future__ import annotations

from collections.abc import Callable

import mask_grid
import numpy as np
import pytest
import torch
from accuracy import mean_of
from accuracy_tables import accuracies
from torch_threads import torch_threads

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target


def test_finer_cells_follow_a_thin_lesion_better(
    make_slice: Callable[..., StudySlice], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.indices((512, 512))
    radius = np.hypot(rows - 256, columns - 256)
    ring = (radius > 180) & (radius < 183) & (rows < 256)
    target = Target(ring, Prompt(((256.0, 75.0),), (FOREGROUND,)), BleedType.SUBDURAL)
    slices = [make_slice(study, np.zeros(ring.shape, np.int16), (target,)) for study in (4, 9)]
    monkeypatch.setattr(mask_grid, "study_slices", lambda spec, workers: slices)
    with torch_threads(2):
        record = mask_grid.measure(2)
        assert torch.get_num_threads() == 2  # the next suite of bench.py has them again
    means = [mean_of(record, f"{side} x {side} cells", "Dice", "all") for side in mask_grid.SIDES]
    assert means[0].mean < means[1].mean < means[2].mean < 1
    assert record.find("click", "study, subdural").samples == (4.0, 9.0)
    assert record.find("click", "area, all").samples == (ring.sum() * 0.25,) * 2
    text = "\n".join(accuracies(record))
    assert text.startswith("Means over lesions, with 95 % intervals over studies.")
    assert "| Dice | subdural | all |" in text
