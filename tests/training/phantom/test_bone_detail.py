"""Sutures, fractures and air: where they lie, how wide and how often, and what they leave alone."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomSlice,
    Tissue,
    generate_study,
)
from samihs_training.data.phantom.arrays import Array, Points
from samihs_training.data.phantom.fractures import AIR_HU, Fracture, FractureLine, Frame
from samihs_training.data.phantom.patient import Patient
from samihs_training.data.phantom.scan import draw_scan
from samihs_training.data.phantom.skull import Skull
from samihs_training.data.phantom.streams import FRACTURES, SUTURES, SideStreams
from samihs_training.data.phantom.study import Acquisition
from samihs_training.data.phantom.sutures import LEAST_WIDTH_MM, WIDTH_MM, Suture, draw_sutures
from samihs_training.data.phantom.waves import Waves

PLAIN = PhantomOptions(
    matrix=256,
    slice_thickness_mm=1.25,
    tilt_deg=0.0,
    noise_hu=0.0,
    kernel="sharp",
    artefacts=False,
    motion=False,
    distractors=False,
    bleeds=(),
)


def acquisition_of(seed: int, options: PhantomOptions) -> Acquisition:
    rng = np.random.default_rng(seed)
    return Acquisition(Patient(rng, options), draw_scan(rng, options))


def slice_through(acquisition: Acquisition, z: float) -> PhantomSlice:
    """The slice through a height of the head, mm."""
    return acquisition.slice_at(acquisition.height_of((0.0, 0.0, z)), np.random.default_rng(0))


def pixels_of(acquisition: Acquisition, z: float) -> Points:
    """Head coordinates (mm) of the pixels of that slice, float32 [matrix, matrix]."""
    corner = acquisition.corner(acquisition.height_of((0.0, 0.0, z)))
    steps = np.arange(acquisition.scan.matrix) * acquisition.scan.pixel_mm
    scanner = (
        corner[:, None, None]
        + acquisition.row_direction[:, None, None] * steps[None, None, :]
        + acquisition.column_direction[:, None, None] * steps[None, :, None]
    )
    head = np.einsum("ij,jrc->irc", acquisition.turn, scanner).astype(np.float32)
    return Points(head[0], head[1], head[2])


def taken_from_bone(z: float, acquisition: Acquisition) -> tuple[Array, Array]:
    """HU without the skull's gaps, and what the gaps take from it, float [matrix, matrix]."""
    opened = slice_through(acquisition, z).hu.astype(float)
    acquisition.patient.sutures.clear()
    acquisition.patient.fracture = None
    whole = slice_through(acquisition, z).hu.astype(float)
    return whole, whole - opened


@lru_cache(maxsize=1)
def patients() -> tuple[Patient, ...]:
    return tuple(Patient(np.random.default_rng(seed), PhantomOptions()) for seed in range(200))


def seed_of(*, depressed: bool, air: bool) -> int:
    """A patient whose fracture is as asked for."""
    for seed, patient in enumerate(patients()):
        found = patient.fracture
        if found is None or not patient.bleeds:
            continue
        if (found.depression is not None) == depressed and bool(found.air) == air:
            return seed
    raise AssertionError("no such fracture in 200 patients")


def test_side_streams_leave_the_main_one_where_it_stands() -> None:
    rng, untouched = np.random.default_rng(5), np.random.default_rng(5)
    beside = SideStreams(rng)
    first = beside.stream(SUTURES).random(3)
    assert rng.random() == untouched.random()
    np.testing.assert_array_equal(SideStreams(np.random.default_rng(5)).stream(1).random(3), first)
    assert (beside.stream(FRACTURES).random(3) != first).all()
    assert (SideStreams(rng).stream(SUTURES).random(3) != first).all()


def test_a_seed_gives_the_same_sutures_and_fracture() -> None:
    seed = seed_of(depressed=True, air=True)
    options = PhantomOptions(matrix=128)
    first, again = (Patient(np.random.default_rng(seed), options) for _ in range(2))
    assert [s.width_mm for s in first.sutures] == [s.width_mm for s in again.sutures]
    assert first.fracture is not None
    assert again.fracture is not None
    assert first.fracture.air == again.fracture.air
    assert first.fracture.lines[0].length_mm == again.fracture.lines[0].length_mm


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("kind", [BleedType.SUBDURAL, BleedType.EPIDURAL, BleedType.SUBARACHNOID])
def test_sutures_and_cracks_leave_the_masks_of_bleeds_alone(kind: BleedType, motion: bool) -> None:
    options = PhantomOptions(
        matrix=256, motion=motion, bleeds=(kind,), volume_range_ml=(15.0, 30.0)
    )
    acquisition = next(
        acquisition
        for acquisition in (acquisition_of(seed, options) for seed in range(100))
        if acquisition.patient.fracture is not None
        and acquisition.patient.fracture.depression is None
        and not acquisition.patient.fracture.air
    )
    whole = copy(acquisition)
    whole.patient = copy(acquisition.patient)
    whole.patient.sutures, whole.patient.fracture = [], None
    height = 25.0  # mm: the coronal and the lambdoid suture are open there
    detailed, plain = slice_through(acquisition, height), slice_through(whole, height)
    assert (detailed.bleeds == kind).any()
    np.testing.assert_array_equal(detailed.bleeds, plain.bleeds)
    assert (detailed.hu != plain.hu).any()


def test_a_study_with_and_without_detail_is_one_head() -> None:
    """No value of the brain changes: no draw of the new structures touches an older one."""
    options = replace(
        PLAIN, matrix=128, slice_thickness_mm=6.0, noise_hu=4.0, bleeds=None, slices=6
    )
    seed = seed_of(depressed=False, air=False)
    detailed = generate_study(seed, options)
    plain = generate_study(seed, replace(options, bone_detail=False))
    np.testing.assert_array_equal(detailed.bleeds, plain.bleeds)
    assert detailed.parameters == plain.parameters
    near = ndimage.binary_dilation(plain.tissues == Tissue.BONE, np.ones((1, 3, 3)), 5)
    brain = np.isin(plain.tissues, (Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.BLOOD)) & ~near
    assert brain.sum() > 5000
    np.testing.assert_array_equal(detailed.hu[brain], plain.hu[brain])
    np.testing.assert_array_equal(detailed.tissues[brain], plain.tissues[brain])
    assert (detailed.hu[near] != plain.hu[near]).any()


def test_fragments_and_air_only_take_from_masks() -> None:
    seed = seed_of(depressed=True, air=True)
    options = PhantomOptions(matrix=128, slice_thickness_mm=6.0, slices=14)
    detailed = generate_study(seed, options)
    plain = generate_study(seed, replace(options, bone_detail=False))
    changed = detailed.bleeds != plain.bleeds
    assert (detailed.bleeds[changed] == BleedType.NONE).all()
    assert changed.mean() < 0.002


def test_a_young_suture_crosses_the_whole_bone() -> None:
    acquisition = acquisition_of(2, replace(PLAIN, age_years=20))
    patient = acquisition.patient
    patient.fracture = None
    coronal = next(s for s in patient.sutures if s.name == "coronal")
    p = pixels_of(acquisition, 40.0)
    inner, outer = patient.skull.inner(p), patient.skull.outer(p)
    across = inner / np.maximum(inner - outer, 0.5)
    near = coronal.near(p) & (inner > 0) & (outer < 0)
    _, taken = taken_from_bone(40.0, acquisition)
    for low in np.arange(0.05, 0.9, 0.15):
        layer = near & (across > low) & (across < low + 0.15)
        assert taken[layer].max() > 150, f"closed at {low:.2f} of the bone's thickness"


def test_sutures_are_straighter_inside_than_outside() -> None:
    suture = next(s for s in acquisition_of(2, PLAIN).patient.sutures if s.name == "lambdoid")
    inner, outer = suture.sway_share(np.array([0.0, 1.0]))
    assert inner < 0.2
    assert outer == pytest.approx(1.0)


def drawn_sutures(age: float, count: int = 60) -> list[list[Suture]]:
    generators = (np.random.default_rng(seed) for seed in range(count))
    return [draw_sutures(rng, Skull(rng), age) for rng in generators]


def test_widths_are_in_range_and_shrink_with_age_and_sutures_close() -> None:
    heads = {age: drawn_sutures(age) for age in (22, 50, 85)}
    widths = {age: [s.width_mm for head in found for s in head] for age, found in heads.items()}
    assert min(min(w) for w in widths.values()) >= LEAST_WIDTH_MM
    assert max(max(w) for w in widths.values()) <= WIDTH_MM.high
    assert np.mean(widths[22]) > np.mean(widths[50]) > np.mean(widths[85])
    counts = {age: np.mean([len(head) for head in found]) for age, found in heads.items()}
    assert counts[22] > 6.5
    assert counts[85] < counts[22] - 0.7
    open_inside = {
        age: np.mean([s.half_width(s.openness, np.zeros(1)).item() > 0 for h in f for s in h])
        for age, f in heads.items()
    }
    assert open_inside[22] > 0.9
    assert open_inside[85] < 0.5


def test_old_edges_are_sclerotic_and_the_metopic_suture_is_rare() -> None:
    young, old = drawn_sutures(25), drawn_sutures(75)
    assert all(s.rim_mm == 0 for head in young for s in head)
    assert np.mean([s.rim_mm > 0 for head in old for s in head]) > 0.8
    metopic = [any(s.name == "metopic" for s in head) for head in drawn_sutures(25, 300)]
    assert 0.015 < np.mean(metopic) < 0.1


def test_a_crack_is_as_wide_as_it_says_and_goes_through_both_tables() -> None:
    acquisition = acquisition_of(4, replace(PLAIN, matrix=512))
    patient, z, width = acquisition.patient, 20.0, 1.6
    patient.sutures.clear()
    patient.fracture = Fracture((_upright_line(patient.skull, z, width),))
    p = pixels_of(acquisition, z)
    thickness = float(patient.skull.bone_thickness(_side_of(patient.skull, z)).item())
    whole, taken = taken_from_bone(z, acquisition)
    bone = whole > 300
    share = np.where(bone, taken, 0) / np.maximum(whole - 50.0, 1.0)
    area = share.sum() * acquisition.scan.pixel_mm**2
    assert area == pytest.approx(width * thickness, rel=0.3)
    inner, outer = patient.skull.inner(p), patient.skull.outer(p)
    for table in ((inner > 0) & (inner < 1.2), (outer < 0) & (outer > -1.2)):
        assert taken[table].max() > 300


def _side_of(skull: Skull, z: float) -> Points:
    """The point of the inner surface on the left at a height, as float32 [1] arrays."""
    x = np.linspace(30, 90, 2000, dtype=np.float32)
    p = Points(x, np.zeros_like(x), np.full_like(x, z))
    at = int(np.abs(skull.inner(p)).argmin())
    return Points(*(c[at : at + 1] for c in p))


def _upright_line(skull: Skull, z: float, width: float) -> FractureLine:
    point = _side_of(skull, z)
    centre = (float(point.x.item()), 0.0, z)
    out, down, back = np.eye(3)[0], -np.eye(3)[2], np.eye(3)[1]
    rng = np.random.default_rng(0)
    waves = Waves(rng, 60.0, 4), Waves(rng, 6.0, 4)
    return FractureLine(Frame(centre, out, down, back), 90.0, width, 50.0, 0.0, *waves)


def test_fractures_are_as_frequent_as_their_signs_make_them() -> None:
    drawn = patients()
    fractured = np.array([patient.fracture is not None for patient in drawn])
    bruised = np.array([patient.face.bruise is not None for patient in drawn])
    epidural = np.array(
        [any(b.kind is BleedType.EPIDURAL for b in patient.bleeds) for patient in drawn]
    )
    assert 0.1 < fractured.mean() < 0.3
    assert fractured[~bruised & ~epidural].mean() < 0.15
    assert fractured[bruised].mean() > 0.3
    assert fractured[epidural].mean() > 0.4
    found = [patient.fracture for patient in drawn if patient.fracture is not None]
    assert 0.08 < np.mean([f.depression is not None for f in found]) < 0.4
    assert 0.1 < np.mean([bool(f.air) for f in found]) < 0.45


def test_fractures_lie_beneath_the_scalp_hematoma() -> None:
    for patient in patients():
        if patient.fracture is not None and patient.face.bruise is not None:
            centre = patient.fracture.lines[0].frame.centre
            assert np.linalg.norm(np.subtract(centre, patient.face.bruise.centre)) < 30


def test_air_lies_inside_the_skull_and_is_labelled_so() -> None:
    seed = seed_of(depressed=False, air=True)
    acquisition = acquisition_of(seed, replace(PLAIN, bleeds=None))
    fracture = acquisition.patient.fracture
    assert fracture is not None
    for bubble in fracture.air:
        assert bubble.hu == AIR_HU
        point = Points(*(np.full(1, c, np.float32) for c in bubble.centre))
        assert float(acquisition.patient.skull.inner(point).item()) < 0
    largest = max(fracture.air, key=lambda bubble: min(bubble.radii))
    height = acquisition.height_of(largest.centre)
    sample = acquisition.slice_at(height, np.random.default_rng(0))
    acquisition.patient.fracture = None
    without = acquisition.slice_at(height, np.random.default_rng(0))
    new = (sample.tissues == Tissue.AIR) & (without.tissues != Tissue.AIR)
    assert new.any()
    assert sample.hu[new].min() < -300
    assert not sample.bleeds[new].any()


def test_detail_can_be_switched_off() -> None:
    patient = Patient(np.random.default_rng(0), PhantomOptions(bone_detail=False))
    assert patient.gaps == []
    assert patient.fracture is None
