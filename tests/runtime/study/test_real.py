"""The reader on real CT, where it is at hand (../shared/data)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from samihs_runtime.errors import StudyError
from samihs_runtime.geometry import affine_ras, shear_angle, slice_gaps
from samihs_runtime.study import list_series, read_study

pytestmark = pytest.mark.shared_data

DATA = Path(__file__).parents[4] / "shared" / "data"


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data not at hand: {name}")
    return path


def test_a_tilted_unevenly_spaced_head() -> None:
    series = read_study(real("ct/ge_tilt"))
    gaps = slice_gaps(series.planes)
    np.testing.assert_allclose(gaps[:13], 4.00, atol=0.01)
    np.testing.assert_allclose(gaps[13], 1.08, atol=0.01)
    np.testing.assert_allclose(gaps[14:], 7.00, atol=0.01)
    assert shear_angle(series.planes) == pytest.approx(18.5, abs=0.01)
    np.testing.assert_allclose(series.extents_mm[[0, 13, 14, 27]], [4, 2.54, 4.04, 7], atol=0.01)
    assert (series.hu.dtype, series.hu.shape) == (np.int16, (28, 512, 512))
    assert series.hu.min() > -1100  # padding of -1500 became air
    first = pydicom.dcmread(series.sources[0].path).pixel_array
    inside = first != -1500
    np.testing.assert_array_equal(series.hu[0][inside], first[inside])
    assert any("18.5 degrees" in note for note in series.notes)


def test_the_scan_is_found_among_localizer_and_screenshots() -> None:
    folder = real("ct/philips_phantom")
    series = read_study(folder)
    assert series.description == "STD BRAIN 5MM"
    np.testing.assert_allclose(series.extents_mm, 5)
    assert {row.number: row.kind for row in list_series(folder)} == {
        100: "localizer",
        201: "axial",
        401: "secondary capture",
    }
    with pytest.raises(StudyError, match="localizer"):
        read_study(folder / "S1000")
    with pytest.raises(StudyError, match="screenshot"):
        read_study(folder, series="401")


def test_dcm2niix_puts_the_same_voxels_in_the_same_places(tmp_path: Path) -> None:
    converter = shutil.which("dcm2niix")
    if converter is None:
        pytest.skip("dcm2niix is not installed")
    nibabel = pytest.importorskip("nibabel")
    folder = real("ct/philips_phantom/S2010")
    options = ["-z", "n", "-b", "n", "-f", "theirs", "-o", str(tmp_path)]
    subprocess.run([converter, *options, str(folder)], check=True, capture_output=True)
    theirs = nibabel.load(tmp_path / "theirs.nii")
    series = read_study(folder)
    flip = np.eye(4)  # dcm2niix stores rows from below
    flip[1, 1], flip[1, 3] = -1, series.shape[0] - 1
    np.testing.assert_allclose(affine_ras(series.planes) @ flip, theirs.affine, atol=1e-3)
    np.testing.assert_array_equal(series.hu.transpose(2, 1, 0)[:, ::-1], theirs.dataobj)


def test_a_dicomdir_of_what_is_elsewhere() -> None:
    with pytest.raises(StudyError, match="refers to 433 files, none of which is beside it"):
        read_study(real("ct/philips_phantom_DICOMDIR"))


@pytest.mark.parametrize("slice_name", ["CT1", "CT2"])
@pytest.mark.parametrize("coding", ["J2KR", "JLSL", "JPLL", "RLE"])
def test_lossless_files_equal_their_reference(tmp_path: Path, slice_name: str, coding: str) -> None:
    reference = _reference(slice_name, tmp_path)
    series = read_study(real(f"transfer_syntaxes/{slice_name}_{coding}"))
    np.testing.assert_array_equal(series.hu, reference)
    assert not any("lossy" in note for note in series.notes)


@pytest.mark.parametrize("slice_name", ["CT1", "CT2"])
@pytest.mark.parametrize(("coding", "bound"), [("JLSN", 4), ("J2KI", 400)])
def test_lossy_files_are_near_and_say_so(
    tmp_path: Path, slice_name: str, coding: str, bound: int
) -> None:
    reference = _reference(slice_name, tmp_path)
    series = read_study(real(f"transfer_syntaxes/{slice_name}_{coding}"))
    inside = reference > -900
    difference = np.abs(series.hu.astype(int) - reference)[inside]
    assert difference.max() <= bound
    assert difference.mean() <= 40  # CT1_J2KI is compressed 70 : 1
    assert any("lossy compression" in note for note in series.notes)


def _reference(slice_name: str, scratch: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """HU of the uncompressed file, by hand: rescale, and padding to air."""
    zstandard = pytest.importorskip("zstandard")
    packed = real(f"transfer_syntaxes/{slice_name}_UNC.zst").read_bytes()
    path = scratch / "reference.dcm"
    path.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array.astype(int)
    hu = stored + int(dataset.RescaleIntercept)
    if "PixelPaddingValue" in dataset:
        hu[stored == -2000] = -1000
    np.testing.assert_array_equal(read_study(path).hu[0], hu)
    return hu[None]


def test_bits_stored_that_disagree() -> None:
    plain = read_study(real("single/693_UNCR.dcm"))
    packed = read_study(real("single/693_J2KR.dcm"))
    np.testing.assert_array_equal(plain.hu, packed.hu)
    assert plain.extents_mm.tolist() == [5]  # SpacingBetweenSlices says 20
    assert plain.hu.max() == 1468


def test_a_perfusion_map_is_refused_with_the_reason() -> None:
    with pytest.raises(StudyError, match=r"its values are not HU \(perfusion map\)"):
        read_study(real("single/eCT_Supplemental.dcm"))


@pytest.mark.parametrize(
    ("name", "thickness", "extremes"),
    [("bad_sequence.dcm", 1, (-1011, 1243)), ("picker_head.dcm", 10, (-1057, 1440))],
)
def test_broken_headers_do_not_stop_a_good_image(
    name: str, thickness: float, extremes: tuple[int, int]
) -> None:
    series = read_study(real(f"single/{name}"))
    assert series.extents_mm.tolist() == [thickness]
    assert (series.hu.min(), series.hu.max()) == extremes


@pytest.mark.parametrize("name", ["real_ich_8bit", "template"])
def test_folders_without_dicom(name: str) -> None:
    with pytest.raises(StudyError, match="no DICOM image"):
        read_study(real(name))
