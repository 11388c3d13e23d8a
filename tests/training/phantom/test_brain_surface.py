"""What lies right below the bone: dura, and brain that touches it in places, as on real CT."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.calibration.normal_clicks import soft_tissue
from samihs_training.data.phantom import PhantomOptions, PhantomSlice, generate_slice, patient
from samihs_training.data.phantom.ranges import Range

SEEDS = range(40, 90)


@pytest.fixture(scope="module")
def heads() -> list[PhantomSlice]:
    """Slices through heads without hemorrhage, of which most show the cerebrum."""
    options = PhantomOptions(bleeds=(), matrix=256)
    return [generate_slice(seed, options) for seed in SEEDS]


def below_bone(sample: PhantomSlice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """mm from the bone, and the soft tissue within the skull, bright or not."""
    hu, spacing = np.asarray(sample.hu), (sample.pixel_spacing,) * 2
    depth = ndimage.distance_transform_edt(hu < 200, sampling=spacing)
    inside = ndimage.binary_dilation(soft_tissue(hu, spacing), iterations=3) & (hu < 200)
    return depth, inside


def test_tissue_below_the_bone_is_about_as_bright_as_brain(heads: list[PhantomSlice]) -> None:
    """On four real heads it is 7 HU darker to 27 HU brighter (docs/phantoms.md). A rim of CSF
    around every brain was darker by the median; around old brains it still is."""
    differences = []
    for each in heads:
        depth, inside = below_bone(each)
        middle = inside & (depth > 25)
        rim = np.asarray(each.hu)[inside & (depth > 1.5) & (depth <= 2.5)]
        if middle.sum() < 1000 or rim.size < 100:
            continue
        differences.append(np.median(rim) - np.median(np.asarray(each.hu)[middle]))
    assert len(differences) > 10
    assert 1 < np.median(differences) < 12
    assert min(differences) > -30
    assert np.percentile(differences, 90) < 27


def test_dura_lines_the_skull(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same heads with next to none are darker there, and as they were elsewhere."""
    options = PhantomOptions(bleeds=(), matrix=256, artefacts=0.0)
    lined = [generate_slice(seed, options) for seed in SEEDS[:6]]
    monkeypatch.setattr(patient, "DURA_MM", Range(0.001, 0.002, "mm", "for this test"))
    bare = [generate_slice(seed, options) for seed in SEEDS[:6]]
    brighter, elsewhere = [], []
    for one, other in zip(lined, bare, strict=True):
        depth, inside = below_bone(other)
        change = np.asarray(one.hu, float) - np.asarray(other.hu)
        brighter.append(change[inside & (depth < 1.5)].mean())
        elsewhere.append(np.abs(change[inside & (depth > 6)]).max())
    assert np.mean(brighter) > 2
    assert min(brighter) > 0
    assert max(elsewhere) < 3
