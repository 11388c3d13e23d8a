"""Where dura lies against blood: outside a subdural, on the brain's side of an epidural."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from samihs_training.data.phantom import BleedType, PhantomOptions, PhantomSlice
from samihs_training.data.phantom.options import Tissue
from samihs_training.data.phantom.patient import Patient
from samihs_training.data.phantom.scan import draw_scan
from samihs_training.data.phantom.study import Acquisition

SEED = 2  # a chronic subdural of 73 mL, an acute epidural of 54 mL


def through_the_middle(kind: BleedType, dura_mm: float) -> PhantomSlice:
    """The slice through a bleed's middle, without noise, in a head whose dura is that thick."""
    options = PhantomOptions(bleeds=(kind,), matrix=256, noise_hu=0.0, artefacts=False)
    rng = np.random.default_rng(SEED)
    acquisition = Acquisition(Patient(rng, options), draw_scan(rng, options))
    acquisition.patient.dura_mm = dura_mm
    height = acquisition.height_of(acquisition.patient.bleeds[0].centre)
    return acquisition.slice_at(height, rng)


def change(kind: BleedType) -> tuple[PhantomSlice, NDArray[np.float64], NDArray[np.float64]]:
    """A slice, what dura of 1 mm adds to it, HU, and how far from bone each pixel lies, mm."""
    lined, bare = through_the_middle(kind, 1.0), through_the_middle(kind, 0.001)
    from_bone = ndimage.distance_transform_edt(bare.tissues != Tissue.BONE) * bare.pixel_spacing
    return bare, lined.hu - bare.hu.astype(float), from_bone


def test_dura_stays_between_bone_and_a_subdural_collection() -> None:
    sample, added, from_bone = change(BleedType.SUBDURAL)
    blood = sample.bleeds == BleedType.SUBDURAL
    assert np.median(sample.hu[blood]) < 30  # darker than dura
    assert added[blood & (from_bone < 1.5)].mean() > 2
    assert abs(added[blood & (from_bone > 5)]).max() < 1


def test_an_epidural_collection_strips_the_dura_off_the_bone() -> None:
    sample, added, from_bone = change(BleedType.EPIDURAL)
    blood = sample.bleeds == BleedType.EPIDURAL
    from_blood = ndimage.distance_transform_edt(~blood) * sample.pixel_spacing
    assert abs(added[blood & (from_bone < 1.5)]).mean() < 1
    over_it = ~blood & (from_blood < 1.5) & (from_bone > 4)
    assert over_it.sum() > 50
    assert added[over_it].mean() > 2
    elsewhere = ~blood & (from_blood > 8) & (from_bone > 4)
    assert abs(added[elsewhere]).mean() < 0.1


@pytest.mark.parametrize("kind", [BleedType.SUBDURAL, BleedType.EPIDURAL])
def test_dura_takes_next_to_nothing_from_a_mask(kind: BleedType) -> None:
    """It is no thicker than what the glare of the bone hides anyway."""
    lined, bare = through_the_middle(kind, 1.0), through_the_middle(kind, 0.001)
    areas = [int((each.bleeds == kind).sum()) for each in (lined, bare)]
    assert areas[0] == pytest.approx(areas[1], rel=0.04)
