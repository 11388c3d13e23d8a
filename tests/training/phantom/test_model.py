"""What a phantom promises: the same seed, the right HU, every bleed in its own space and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomSlice,
    PhantomStudy,
    Tissue,
    generate_slice,
    generate_study,
)
from samihs_training.data.phantom.arrays import Array, Points
from samihs_training.data.phantom.epidural import Epidural
from samihs_training.data.phantom.incidentals import Rod, vessels
from samihs_training.data.phantom.patient import Patient
from samihs_training.data.phantom.scan import draw_scan
from samihs_training.data.phantom.skull import Skull
from samihs_training.data.phantom.study import Acquisition, crossing_height

TYPES = [kind for kind in BleedType if kind is not BleedType.NONE]
PLAIN = PhantomOptions(
    matrix=128,
    slice_thickness_mm=4.0,
    tilt_deg=0.0,
    noise_hu=0.0,
    artefacts=False,
    motion=False,
    distractors=False,
)


def acquisition_of(seed: int, options: PhantomOptions) -> Acquisition:
    rng = np.random.default_rng(seed)
    return Acquisition(Patient(rng, options), draw_scan(rng, options))


@lru_cache(maxsize=16)
def study_of(kind: BleedType, seed: int, low: float, high: float) -> PhantomStudy:
    return generate_study(seed, replace(PLAIN, bleeds=(kind,), volume_range_ml=(low, high)))


def head_points(study: PhantomStudy, seed: int, options: PhantomOptions, mask: Array) -> Points:
    """Head coordinates (mm) of a study's masked pixels, float32 [count]."""
    acquisition = acquisition_of(seed, options)
    z, y, x = np.nonzero(mask)
    scanner = (
        study.positions_mm[z]
        + x[:, None] * study.pixel_spacing * np.array(study.row_direction)
        + y[:, None] * study.pixel_spacing * np.array(study.column_direction)
    )
    head = (acquisition.turn @ scanner.T).astype(np.float32)
    return Points(head[0], head[1], head[2])


def test_a_seed_gives_the_same_slice_and_another_seed_another() -> None:
    first, again, other = generate_slice(3), generate_slice(3), generate_slice(4)
    np.testing.assert_array_equal(first.hu, again.hu)
    np.testing.assert_array_equal(first.bleeds, again.bleeds)
    np.testing.assert_array_equal(first.tissues, again.tissues)
    assert (first.hu != other.hu).any()


def test_a_seed_gives_the_same_study() -> None:
    options = PhantomOptions(matrix=128, slices=4)
    first, again = generate_study(8, options), generate_study(8, options)
    np.testing.assert_array_equal(first.hu, again.hu)
    np.testing.assert_array_equal(first.bleeds, again.bleeds)
    assert first.parameters == again.parameters


def test_a_generator_goes_on_where_it_stands() -> None:
    rng = np.random.default_rng(1)
    options = PhantomOptions(matrix=128)
    first, second = generate_slice(rng, options), generate_slice(rng, options)
    assert (first.hu != second.hu).any()


def test_slices_and_studies_show_the_same_head() -> None:
    options = replace(PLAIN, bleeds=(BleedType.EPIDURAL,), slices=6, volume_range_ml=(20, 40))
    study = generate_study(5, options)
    acquisition = acquisition_of(5, options)
    for index in (0, 3):
        height = float(study.positions_mm[index] @ acquisition.normal) - float(
            acquisition.corner(0.0) @ acquisition.normal
        )
        single = acquisition.slice_at(height, np.random.default_rng(0))
        np.testing.assert_array_equal(single.bleeds, study.bleeds[index])
        np.testing.assert_array_equal(single.hu, study.hu[index])


def test_arrays_have_the_promised_shapes_and_types() -> None:
    sample = generate_slice(2)
    assert sample.hu.shape == sample.bleeds.shape == sample.tissues.shape == (512, 512)
    assert (sample.hu.dtype, sample.bleeds.dtype, sample.tissues.dtype) == (
        np.int16,
        np.uint8,
        np.uint8,
    )
    assert 0.40 <= sample.pixel_spacing <= 0.50


HU_RANGES = {
    Tissue.GREY: (28, 44),
    Tissue.WHITE: (20, 38),
    Tissue.VENTRICLE: (0, 18),
    Tissue.CEREBELLUM: (28, 44),
    Tissue.BONE: (250, 1900),
    Tissue.AIR: (-1010, -900),
    Tissue.FAT: (-125, -60),
    Tissue.MUSCLE: (40, 75),
}


def test_tissues_have_their_textbook_hu() -> None:
    options = replace(PLAIN, bleeds=(), matrix=256)
    found: dict[Tissue, list[float]] = {tissue: [] for tissue in HU_RANGES}
    for seed in range(8):
        sample = generate_slice(seed, options)
        for tissue in HU_RANGES:
            inside = ndimage.binary_erosion(sample.tissues == tissue, iterations=2)
            if inside.sum() > 40:
                found[tissue].append(float(np.median(sample.hu[inside])))
    for tissue, (low, high) in HU_RANGES.items():
        assert found[tissue], f"no {tissue.name} in eight slices"
        assert low <= min(found[tissue]), tissue.name
        assert max(found[tissue]) <= high, tissue.name
    assert np.mean(found[Tissue.GREY]) - np.mean(found[Tissue.WHITE]) > 3


def test_acute_blood_is_brighter_than_brain() -> None:
    study = study_of(BleedType.EPIDURAL, 1, 40, 60)
    inside = ndimage.binary_erosion(study.bleeds > 0, iterations=1)
    assert 45 < np.median(study.hu[inside]) < 95


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name.lower())
def test_each_type_lies_inside_the_skull_and_in_its_own_space(kind: BleedType) -> None:
    options = replace(PLAIN, bleeds=(kind,), volume_range_ml=(8, 20))
    study = study_of(kind, 11, 8, 20)
    mask = study.bleeds == kind
    assert mask.sum() > 50
    assert set(np.unique(study.bleeds)) == {0, kind}
    assert np.isin(study.tissues[mask], (Tissue.BLOOD, Tissue.MEMBRANE)).mean() == 1.0
    patient = acquisition_of(11, options).patient
    p = head_points(study, 11, options, mask)
    depth = -patient.skull.inner(p)
    pixel = study.pixel_spacing
    assert np.percentile(depth, 2) > -pixel
    q = patient.displaced(p, depth, -patient.skull.vault(p))
    if kind is BleedType.INTRAVENTRICULAR:
        assert np.percentile(patient.ventricles.distance(q), 95) < 1.5 * pixel
    elif kind in (BleedType.SUBDURAL, BleedType.EPIDURAL):
        assert np.percentile(depth, 98) < 35
        assert np.median(depth) < 12
    elif kind is BleedType.INTRAPARENCHYMAL:
        assert np.median(patient.ventricles.distance(q)) > 0
    else:
        near = patient.brain.is_fluid(q, widened=2.5)
        assert near.mean() > 0.75


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name.lower())
def test_the_volume_asked_for_is_the_volume_found(kind: BleedType) -> None:
    study = study_of(kind, 11, 8, 20)
    requested = study.parameters["bleeds"][0]["requested_ml"]
    assert study.volume_ml(kind) == pytest.approx(requested, rel=0.4)
    assert study.volume_ml() == pytest.approx(study.volume_ml(kind))


def test_the_volume_does_not_depend_on_the_slices() -> None:
    options = replace(PLAIN, bleeds=(BleedType.INTRAPARENCHYMAL,), volume_range_ml=(20, 40))
    thin = generate_study(4, replace(options, slice_thickness_mm=2.5))
    thick = generate_study(4, replace(options, slice_thickness_mm=7.0))
    assert thin.volume_ml() == pytest.approx(thick.volume_ml(), rel=0.12)


def test_no_bleeds_means_none() -> None:
    study = generate_study(3, replace(PLAIN, bleeds=(), slices=8))
    assert not study.bleeds.any()
    assert not np.isin(study.tissues, (Tissue.BLOOD, Tissue.MEMBRANE)).any()
    assert study.volume_ml() == 0


def test_a_large_subdural_pushes_the_ventricles_away() -> None:
    options = replace(PLAIN, bleeds=(BleedType.SUBDURAL,), volume_range_ml=(110, 120))
    seed = _seed_of_convexity(options)
    pushed = acquisition_of(seed, options)
    bleed = pushed.patient.bleeds[0]
    side = 1.0 if bleed.centre[0] > 0 else -1.0
    height = pushed.height_of((0.0, 0.0, 14.0))
    with_bleed = pushed.slice_at(height, np.random.default_rng(0))
    pushed.patient.bleeds.clear()
    without = pushed.slice_at(height, np.random.default_rng(0))

    def middle(tissues: Array) -> float:
        return float(np.nonzero(tissues == Tissue.VENTRICLE)[1].mean())

    moved_mm = (middle(with_bleed.tissues) - middle(without.tissues)) * without.pixel_spacing
    assert moved_mm * side < -1.5


def _seed_of_convexity(options: PhantomOptions) -> int:
    """A seed whose collection lies over the convexity rather than on the falx."""
    for seed in range(20):
        if hasattr(acquisition_of(seed, options).patient.bleeds[0], "_layer"):
            return seed
    raise AssertionError("no convexity subdural in twenty seeds")


def test_the_random_mix_has_every_type_and_heads_without() -> None:
    patients = [Patient(np.random.default_rng(seed), PhantomOptions()) for seed in range(60)]
    kinds = [{bleed.kind for bleed in patient.bleeds} for patient in patients]
    assert set.union(*kinds) == set(TYPES)
    assert any(not found for found in kinds)
    assert any(len(found) > 1 for found in kinds)


def test_most_slices_cross_a_bleed_when_asked_to() -> None:
    options = replace(PLAIN, bleeds=(BleedType.SUBDURAL,), crossing_probability=1.0)
    crossing = [generate_slice(seed, options).bleeds.any() for seed in range(12)]
    assert np.mean(crossing) > 0.7


@pytest.mark.parametrize("kind", TYPES)
def test_a_bleed_knows_how_far_up_and_down_it_reaches(kind: BleedType) -> None:
    """Single slices are placed by it: training must see the ends that studies show."""
    seed, volume = 3, (15.0, 25.0)
    study = study_of(kind, seed, *volume)
    options = replace(PLAIN, bleeds=(kind,), volume_range_ml=volume)
    (bleed,) = acquisition_of(seed, options).patient.bleeds
    found = head_points(study, seed, options, study.bleeds == kind).z
    low, high = bleed.heights
    assert low == pytest.approx(found.min(), abs=8.0)
    assert high == pytest.approx(found.max(), abs=8.0)


def test_the_ends_of_bleeds_are_shown_as_often_as_studies_show_them() -> None:
    """A third of the slices lie within a tenth of a bleed's height of one of its ends."""
    options = replace(PLAIN, bleeds=(BleedType.EPIDURAL,), volume_range_ml=(20, 30))
    rng = np.random.default_rng(0)
    heights = [_placed(acquisition_of(0, options), rng) for _ in range(600)]
    assert np.mean([min(each, 1 - each) < 0.1 for each in heights]) == pytest.approx(0.41, abs=0.06)


def _placed(acquisition: Acquisition, rng: np.random.Generator) -> float:
    """Where a slice that crosses the one bleed lies, 0 at its lower end to 1."""
    (bleed,) = acquisition.patient.bleeds
    ends = [acquisition.height_of((*bleed.centre[:2], z)) for z in bleed.heights]
    return (crossing_height(acquisition, rng) - ends[0]) / (ends[1] - ends[0])


def test_a_tilted_slice_passes_through_the_point_it_was_aimed_at() -> None:
    acquisition = acquisition_of(5, PhantomOptions(tilt_deg=22.0))
    point = (21.0, -33.0, 14.0)
    corner = acquisition.corner(acquisition.height_of(point))
    beside = acquisition.turn.T @ np.asarray(point) - corner
    assert beside @ acquisition.normal == pytest.approx(0.0, abs=1e-9)


def test_subdurals_keep_within_the_volumes_asked_for() -> None:
    for low, high in ((1.0, 3.0), (30.0, 60.0), (60.0, 90.0)):
        options = PhantomOptions(
            bleeds=(BleedType.SUBDURAL,) * 20, volume_range_ml=(low, high), distractors=False
        )
        volumes = [b.volume_ml for b in Patient(np.random.default_rng(3), options).bleeds]
        assert low <= min(volumes)
        assert max(volumes) <= high


def test_epidurals_are_lenses_and_thin_layers_of_three_ages() -> None:
    options = PhantomOptions(
        bleeds=(BleedType.EPIDURAL,) * 60, volume_range_ml=(20.0, 20.0), distractors=False
    )
    bleeds = [
        bleed
        for bleed in Patient(np.random.default_rng(4), options).bleeds
        if isinstance(bleed, Epidural)
    ]
    assert {bleed.content.stage for bleed in bleeds} == {"acute", "mixed", "subacute"}
    thin = [bleed.thickness_mm for bleed in bleeds if bleed.venous]
    lens = [bleed.thickness_mm for bleed in bleeds if not bleed.venous]
    assert 8 < len(thin) < 30
    assert np.median(thin) < 0.65 * np.median(lens)


def test_septated_collections_have_membranes_inside_the_collection() -> None:
    options = replace(PLAIN, matrix=256, bleeds=(BleedType.SUBDURAL,), volume_range_ml=(60, 120))
    walls = [s for s in _slices(options, 24) if (s.tissues == Tissue.MEMBRANE).any()]
    assert walls, "no membrane in 24 large subdural collections"
    for sample in walls:
        assert (sample.bleeds[sample.tissues == Tissue.MEMBRANE] == BleedType.SUBDURAL).all()


def _slices(options: PhantomOptions, count: int) -> Iterator[PhantomSlice]:
    return (
        generate_slice(seed, replace(options, crossing_probability=1.0)) for seed in range(count)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": 0}, "matrix"),
        ({"slice_thickness_mm": -1.0}, "slice_thickness_mm"),
        ({"volume_range_ml": (5.0, 2.0)}, "volume_range_ml"),
        ({"kernel": "bone"}, "kernel"),
        ({"bleeds": (BleedType.NONE,)}, "NONE"),
        ({"noise_hu": -1.0}, "noise_hu"),
        ({"tilt_deg": 80.0}, "tilt_deg"),
        ({"crossing_probability": 1.5}, "crossing_probability"),
    ],
)
def test_options_refuse_nonsense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomOptions(**change)  # type: ignore[arg-type]


def test_a_short_series_still_shows_a_low_bleed() -> None:
    options = replace(PLAIN, bleeds=(BleedType.INTRAPARENCHYMAL,), slices=8)
    seen = [generate_study(seed, options).bleeds.any() for seed in range(5)]
    assert all(seen)


def test_sinuses_differ_in_size_and_arteries_do_not_follow_them() -> None:
    def radii(sinus: float) -> Array:
        rng = np.random.default_rng(3)
        rods = vessels(rng, Skull(rng), sinus)
        return np.array([max(rod.radii) for rod in rods if isinstance(rod, Rod)])

    wider = radii(1.7) / radii(1.0)
    assert sorted(np.unique(wider.round(6))) == [1.0, 1.7]
    assert (wider > 1).sum() == 4  # two transverse, the straight and the superior sagittal sinus
