"""NIfTI: every voxel's place against the DICOM equation, tilt as shear, uneven gaps refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from samihs_runtime.errors import OutputError
from samihs_runtime.measurement import measure
from samihs_runtime.writers import WriteOptions, check_formats
from samihs_runtime.writers.nifti import write_nifti
from tests.runtime.series_factory import make_lesion, make_report, make_series, not_found


@pytest.mark.parametrize("tilt", [0.0, 18.5, -24.0])
@pytest.mark.parametrize("positions", [(0.0, 5.0, 10.0, 15.0), (0.0,)], ids=["stack", "single"])
def test_every_voxel_lies_where_dicom_puts_it(
    tilt: float, positions: tuple[float, ...], tmp_path: Path
) -> None:
    series = make_series(positions, tilt_deg=tilt, spacing=(0.45, 0.6), shape=(40, 56))
    lesion = make_lesion(series, (len(positions) // 2,))
    write_nifti(series, lesion, make_report(), tmp_path / "lesion.nii.gz")
    image: Any = nib.load(tmp_path / "lesion.nii.gz")
    assert image.shape == (56, 40, len(positions))
    assert image.header.get_xyzt_units()[0] == "mm"
    for z, plane in enumerate(series.planes):
        for x, y in ((0, 0), (55, 0), (0, 39), (31, 17)):
            ras = image.affine @ (x, y, z, 1)
            np.testing.assert_allclose(
                ras[:3] * (-1, -1, 1), plane.to_patient(x, y), atol=1e-4
            )  # the sform is float32: 1e-5 relative of some 100 mm at most
    data = np.asarray(image.dataobj)
    np.testing.assert_array_equal(
        data.transpose(2, 1, 0).astype(bool), lesion.volume_mask(series.hu.shape)
    )


def test_the_qform_is_trusted_only_without_shear(tmp_path: Path) -> None:
    """With one slice the step is the normal: no shear, whatever the tilt."""
    for tilt, code in ((0.0, 1), (18.5, 0)):
        series = make_series(tilt_deg=tilt)
        write_nifti(series, make_lesion(series), make_report(), tmp_path / "a.nii.gz")
        image: Any = nib.load(tmp_path / "a.nii.gz")
        assert int(image.header["sform_code"]) == 1
        assert int(image.header["qform_code"]) == code


def test_voxel_volume_agrees_with_the_extent(tmp_path: Path) -> None:
    """A sheared voxel's determinant is area x distance along the normal, not along the table."""
    series = make_series(tilt_deg=18.5)
    write_nifti(series, make_lesion(series), make_report(), tmp_path / "a.nii.gz")
    affine = nib.load(tmp_path / "a.nii.gz").affine  # type: ignore[attr-defined]
    assert abs(np.linalg.det(affine[:3, :3])) == pytest.approx(0.5 * 0.5 * 5.0, rel=1e-6)


def test_uneven_gaps_are_refused_with_the_reason(tmp_path: Path) -> None:
    series = make_series((0, 4, 8, 9.08, 16.08), thickness=4.0)
    with pytest.raises(OutputError, match=r"slice distances vary: .*1 x 1\.08 mm"):
        write_nifti(series, make_lesion(series), make_report(), tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()


def test_a_format_that_cannot_hold_the_series_is_refused_before_any_work() -> None:
    uneven = make_series((0, 4, 8, 9.08, 16.08), thickness=4.0)
    with pytest.raises(OutputError, match="--resample"):
        check_formats(uneven, ("seg", "nifti"), WriteOptions())
    check_formats(uneven, ("seg", "nifti"), WriteOptions(resample=True))
    check_formats(uneven, ("seg", "stl"), WriteOptions())
    with pytest.raises(OutputError, match="output format tiff"):
        check_formats(uneven, ("seg", "tiff"), WriteOptions())


def test_rounded_positions_are_one_grid(tmp_path: Path) -> None:
    series = make_series((0, 5.01, 9.99, 15.0, 20.02))
    write_nifti(series, not_found(), make_report(), tmp_path / "a.nii.gz")
    image: Any = nib.load(tmp_path / "a.nii.gz")
    assert not np.asarray(image.dataobj).any()


@pytest.mark.parametrize("tilt", [0.0, 18.5])
def test_uneven_gaps_can_be_resampled(tilt: float, tmp_path: Path) -> None:
    """Every new slice lies on the old ones' line, and carries the mask of the one it lies in."""
    series = make_series((0, 4, 8, 9, 16), thickness=4.0, tilt_deg=tilt)
    lesion = make_lesion(series, (1, 2, 3))
    write_nifti(series, lesion, make_report(), tmp_path / "a.nii.gz", resample=True)
    image = nib.load(tmp_path / "a.nii.gz")
    mask = np.asarray(image.dataobj)
    assert b"resampled" in image.header["descrip"].tobytes()
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    step = 1.0  # the smallest gap
    ends = 2 * step / 2 * 48 * 0.25 / 1000  # half a step of 48 pixels at each end
    assert mask.sum() * voxel_ml == pytest.approx(measure(series, lesion).volume_ml, abs=ends)
    for index, plane in enumerate(series.planes):
        lps = np.append(plane.to_patient(26, 30), 1.0)
        voxel = np.linalg.inv(image.affine) @ (np.array([-1, -1, 1, 1]) * lps)
        np.testing.assert_allclose(voxel[:2], (26, 30), atol=1e-6)
        assert mask[26, 30, round(voxel[2])] == (index in (1, 2, 3))


@pytest.mark.parametrize(
    ("positions", "thickness"),
    [
        ((0, 4, 8, 12.2), 1.0),
        ((0, 4.2, 8.2, 12.2), 1.0),
        ((0, 5, 10.5), 0.6),
        ((0, 4, 8, 9, 16), 4.0),
        ((0, 3, 3.6, 7), 0.6),
    ],
)
def test_no_slice_is_lost_by_resampling(
    positions: tuple[float, ...], thickness: float, tmp_path: Path
) -> None:
    """A lesion on any one slice is there, as high as that slice but for half a step at each end."""
    series = make_series(positions, thickness=thickness)
    for index in range(len(positions)):
        lesion = make_lesion(series, (index,))
        write_nifti(series, lesion, make_report(), tmp_path / "a.nii", resample=True)
        image = nib.load(tmp_path / "a.nii")
        step = float(image.header.get_zooms()[2])
        height = float(np.asarray(image.dataobj).any(axis=(0, 1)).sum()) * step
        assert height > 0
        assert height == pytest.approx(series.extents_mm[index], abs=step + 1e-3)


def test_an_even_series_is_not_resampled(tmp_path: Path) -> None:
    series = make_series()
    for name, resample in (("plain", False), ("asked", True)):
        path = tmp_path / f"{name}.nii"
        write_nifti(series, make_lesion(series), make_report(), path, resample=resample)
    assert (tmp_path / "plain.nii").read_bytes() == (tmp_path / "asked.nii").read_bytes()


def test_slices_shifted_within_their_planes_are_not_resampled(tmp_path: Path) -> None:
    series = make_series((0, 4, 8, 9, 16))
    x, y, z = series.planes[2].position
    moved = replace(series.planes[2], position=(x + 1.0, y, z))
    series = replace(series, planes=(*series.planes[:2], moved, *series.planes[3:]))
    with pytest.raises(OutputError, match="evens out distances only"):
        write_nifti(series, make_lesion(series), make_report(), tmp_path / "a.nii", resample=True)
