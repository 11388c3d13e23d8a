"""The scanner: noise of the size and texture asked for, streaks, the scan circle, 8-bit wear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from samihs_training.data.phantom import PhantomOptions, generate_slice, wear_8bit
from samihs_training.data.phantom.arrays import Array
from samihs_training.data.phantom.canvas import Canvas, SlicePlane, Window, _interpolation
from samihs_training.data.phantom.options import Tissue
from samihs_training.data.phantom.patient import Patient
from samihs_training.data.phantom.scan import draw_scan
from samihs_training.data.phantom.scanner import PAD_HU, correlated_noise, scan_slice
from samihs_training.data.phantom.streaks import SIZE, back_project, project, streaks
from samihs_training.data.phantom.study import Acquisition


def plane(thickness: float = 5.0) -> SlicePlane:
    axes = np.eye(3)
    return SlicePlane(np.array([-32.0, -32.0, 0.0]), axes[0], axes[1], axes[2], thickness, 64)


@pytest.mark.parametrize(
    ("kernel", "low", "high"),
    [
        ("soft", 0.75, 0.95),
        ("standard", 0.55, 0.85),
        ("sharp", 0.1, 0.6),
    ],
)
def test_noise_has_its_size_and_its_texture(kernel: str, low: float, high: float) -> None:
    options = PhantomOptions(kernel=kernel, noise_hu=4.0, pixel_spacing_mm=0.45)
    scan = draw_scan(np.random.default_rng(0), options)
    noise = correlated_noise(np.random.default_rng(1), scan)
    assert noise.std() == pytest.approx(4.0, rel=0.01)
    neighbours = float((noise[:, 1:] * noise[:, :-1]).mean() / (noise**2).mean())
    assert low < neighbours < high


def test_the_noise_asked_for_is_the_noise_in_the_brain() -> None:
    options = PhantomOptions(matrix=256, bleeds=(), artefacts=False, motion=False, kernel="soft")
    noisy = generate_slice(0, replace(options, noise_hu=5.0))
    clean = generate_slice(0, replace(options, noise_hu=0.0))
    brain = np.isin(clean.tissues, (Tissue.GREY, Tissue.WHITE, Tissue.CEREBELLUM))
    assert brain.sum() > 1000
    difference = noisy.hu[brain].astype(float) - clean.hu[brain]
    assert difference.std() == pytest.approx(5.0, rel=0.1)
    assert abs(difference.mean()) < 0.5


def test_thin_slices_are_noisier_whether_drawn_or_asked_for() -> None:
    def noise(thickness: float) -> float:
        options = PhantomOptions(kernel="soft", slice_thickness_mm=thickness)
        drawn = [draw_scan(np.random.default_rng(seed), options).noise_hu for seed in range(200)]
        return float(np.mean(drawn))

    assert noise(5.0) == noise(3.0)
    left = 0.725  # RECONSTRUCTION's mean
    assert noise(1.0) == pytest.approx(5.0**0.5 * left * noise(5.0), rel=0.05)
    assert noise(1.0) > 1.4 * noise(2.5)


def test_partial_volume_is_the_share_of_the_slab_inside() -> None:
    """A sphere painted with two segments, against 40 thin planes and 8 x 8 points a pixel."""
    canvas = Canvas(plane())
    grid = canvas.grid(Window(0, 64, 0, 64), step=2)
    p = grid.points
    canvas.paint(grid, np.sqrt(p.x**2 + p.y**2 + (p.z - 4) ** 2) - 15.0, 0.0)
    painted = canvas.hu.mean(axis=0) / 1000 + 1
    fine = (np.arange(64 * 8) - 3.5) / 8 - 32
    heights = (np.arange(40) + 0.5) / 40 * 5.0 - 2.5
    square = fine[:, None] ** 2 + fine[None, :] ** 2
    exact = np.mean([square + (z - 4) ** 2 < 225 for z in heights], axis=0)
    exact = exact.reshape(64, 8, 64, 8).mean(axis=(1, 3))
    assert np.abs(painted - exact).max() < 0.12
    assert painted.sum() == pytest.approx(exact.sum(), rel=0.01)


def test_interpolation_keeps_samples_and_straight_lines() -> None:
    matrix = _interpolation(41, 11, 4)
    samples = np.arange(11.0)
    np.testing.assert_allclose(matrix[::4], np.eye(11), atol=1e-6)
    np.testing.assert_allclose((matrix @ samples)[4:37], np.arange(4, 37) / 4, atol=1e-5)


def test_back_projection_undoes_projection() -> None:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    disc = (np.hypot(rows, columns) < 30).astype(np.float32)
    again = back_project(project(disc))
    inside, outside = again[disc > 0].mean(), again[np.hypot(rows, columns) > 40].mean()
    assert inside - outside == pytest.approx(1.0, abs=0.1)


def test_dense_bones_cast_a_dark_band_between_them() -> None:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    hu = np.where(np.hypot(rows, columns) < 45, 30.0, -1000.0).astype(np.float32)
    hu[(np.hypot(rows, columns - 25) < 6) | (np.hypot(rows, columns + 25) < 6)] = 1500.0
    errors, level = streaks(hu, 1.8, np.random.default_rng(0), hardening=0.2, starvation=0.0)
    between, above = errors[60:68, 55:73].mean(), errors[25:33, 55:73].mean()
    assert between < above - 2
    assert level[60:68, 55:73].mean() > level[25:33, 55:73].mean()


def head(radius_mm: float) -> tuple[Array, Array]:
    """HU of a round head in 7 mm of bone on the coarse grid, and the depth below the bone, mm."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    depth = radius_mm - 1.8 * np.hypot(rows, columns)
    hu = np.where(depth > 0, 30.0, np.where(depth > -7, 900.0, -1000.0))
    return hu.astype(np.float32), depth


def errors_of(hu: Array, hardening: float, undersize_hu: float = 0.0) -> Array:
    return streaks(hu, 1.8, np.random.default_rng(0), hardening, 0.0, undersize_hu)[0]


def test_bone_brightens_the_brain_beside_it_and_the_middle_is_calibrated() -> None:
    hu, depth = head(75.0)
    errors = errors_of(hu, hardening=0.65)
    beside, further, middle = (
        errors[(depth > low) & (depth < high)].mean() for low, high in ((3, 6), (8, 14), (40, 75))
    )
    assert beside > further + 3 > middle + 6
    assert abs(middle) < 4
    assert abs(errors_of(hu, hardening=0.0)).max() == 0


def test_a_small_section_of_the_head_is_too_bright_and_air_is_not() -> None:
    def added(radius_mm: float) -> tuple[float, float]:
        hu, depth = head(radius_mm)
        more = errors_of(hu, 0.3, undersize_hu=70.0) - errors_of(hu, 0.3)
        return float(more[depth > 5].mean()), float(np.abs(more[depth < -10]).max())

    wide, vertex = added(80.0), added(45.0)
    assert wide[0] < 3
    assert 20 < vertex[0] < 40
    assert wide[1] == vertex[1] == 0.0


def test_pixels_outside_the_scan_circle_are_padded() -> None:
    options = PhantomOptions(matrix=128)
    scan = replace(draw_scan(np.random.default_rng(0), options), circle=True)
    canvas = Canvas(replace(plane(), matrix=128))
    hu = scan_slice(canvas, scan, np.random.default_rng(0))
    assert hu[0, 0] == hu[-1, -1] == PAD_HU
    assert hu[64, 64] > -1100


def test_wear_clips_to_the_window_and_keeps_256_grey_values() -> None:
    hu = generate_slice(0).hu
    worn = wear_8bit(hu, np.random.default_rng(0), level=40, width=120)
    assert worn.shape == hu.shape
    assert worn.dtype == np.float32
    assert worn.min() >= -20 - 1e-3
    assert worn.max() <= 100 + 1e-3
    assert np.unique(worn).size <= 256


def test_better_jpeg_quality_changes_less() -> None:
    hu = np.clip(generate_slice(0).hu, 0, 80).astype(np.float32)

    def error(quality: float) -> float:
        worn = wear_8bit(hu, np.random.default_rng(0), level=40, width=80, quality=quality)
        return float(np.abs(worn - hu).mean())

    assert error(99) < error(75) < error(30)
    assert error(100) < 0.3


def test_off_focal_radiation_brightens_what_lies_below_the_bone() -> None:
    """On two real heads, too: by tens of HU within 1.5 mm of it, by a few at 3 mm, not at 8 mm."""
    options = PhantomOptions(bleeds=(), matrix=256, noise_hu=0.0, motion=False)
    rng = np.random.default_rng(44)
    acquisition = Acquisition(Patient(rng, options), draw_scan(rng, options))
    added = []
    for share in (0.0, 0.1):
        acquisition.scan = replace(
            acquisition.scan, off_focal=share, off_focal_mm=4.5, starvation=0.0
        )
        added.append(acquisition.slice_at(45.0, np.random.default_rng(0)))
    without, with_it = added
    change = with_it.hu.astype(float) - without.hu
    brain = np.isin(without.tissues, (Tissue.GREY, Tissue.WHITE, Tissue.DURA, Tissue.CSF))
    depth = ndimage.distance_transform_edt(without.hu < 200) * without.pixel_spacing
    assert 15 < change[brain & (depth > 0.5) & (depth < 1.5)].mean() < 45
    assert 2 < change[brain & (depth > 2.5) & (depth < 3.5)].mean() < 12
    assert abs(change[brain & (depth > 8)].mean()) < 0.5
