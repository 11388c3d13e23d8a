"""What is written is what was generated: DICOM, SEG, NIfTI, truth.json."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomStudy,
    generate_study,
    suggested_click,
    write_dicom,
    write_nifti,
)

OPTIONS = PhantomOptions(
    matrix=128,
    slices=8,
    slice_thickness_mm=4.0,
    slice_spacing_mm=5.0,
    tilt_deg=14.0,
    bleeds=(BleedType.SUBDURAL, BleedType.INTRAPARENCHYMAL),
    volume_range_ml=(15, 30),
)
# Type 1 and type 2 attributes of the CT Image IOD (PS3.3 A.3.3) and the modules it contains.
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "ImageType",
    "InstanceNumber",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "KVP",
    "AcquisitionNumber",
    "SOPClassUID",
    "SOPInstanceUID",
)


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return generate_study(21, OPTIONS)


@pytest.fixture(scope="module")
def series(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_dicom(study, folder, segmentation=True)
    return folder


def read(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("IM*.dcm"))]


def test_pixels_come_back_as_hu(study: PhantomStudy, series: Path) -> None:
    images = read(series)
    assert len(images) == 8
    for image, hu in zip(images, study.hu, strict=True):
        back = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        np.testing.assert_array_equal(back, hu)
        assert image.RescaleIntercept == -1024


def test_headers_are_complete(series: Path) -> None:
    images = read(series)
    for name in REQUIRED:
        assert name in images[0], name
    assert images[0].ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert images[0].PatientName == "PHANTOM^SAMIHS"
    assert images[0].GantryDetectorTilt == 14
    assert len({image.SOPInstanceUID for image in images}) == 8
    assert len({image.SeriesInstanceUID for image in images}) == 1


def test_slices_lie_where_the_study_says(study: PhantomStudy, series: Path) -> None:
    images = read(series)
    orientation = np.array(images[0].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    tilt = np.deg2rad(14.0)
    np.testing.assert_allclose(orientation[3:], [0, np.cos(tilt), -np.sin(tilt)], atol=1e-9)
    positions = np.array([image.ImagePositionPatient for image in images], float)
    np.testing.assert_allclose(positions, study.positions_mm, atol=1e-6)
    np.testing.assert_allclose(np.diff(positions @ normal), 5.0, atol=1e-5)
    assert [image.InstanceNumber for image in images] == list(range(1, 9))


def test_the_same_seed_writes_the_same_bytes(
    study: PhantomStudy, series: Path, tmp_path: Path
) -> None:
    write_dicom(study, tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (series / path.name).read_bytes(), path.name


def test_another_phantom_has_other_uids(series: Path, tmp_path: Path) -> None:
    other = generate_study(22, OPTIONS)
    write_dicom(other, tmp_path)
    ours, theirs = read(series)[0], read(tmp_path)[0]
    assert ours.StudyInstanceUID != theirs.StudyInstanceUID
    assert ours.SOPInstanceUID != theirs.SOPInstanceUID


def test_the_segmentation_holds_each_type(study: PhantomStudy, series: Path) -> None:
    seg = pydicom.dcmread(series / "truth_seg.dcm")
    labels = {int(s.SegmentNumber): s.SegmentLabel for s in seg.SegmentSequence}
    assert labels == {1: "Intraparenchymal hemorrhage", 2: "Subdural hemorrhage"}
    uids = [image.SOPInstanceUID for image in read(series)]
    back = np.zeros_like(study.bleeds)
    kinds = {1: BleedType.INTRAPARENCHYMAL, 2: BleedType.SUBDURAL}
    frames = np.atleast_3d(seg.pixel_array)
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        back[uids.index(source.ReferencedSOPInstanceUID)][frame > 0] = kinds[number]
    np.testing.assert_array_equal(back, study.bleeds)


def test_nifti_agrees_with_dicom(study: PhantomStudy, series: Path, tmp_path: Path) -> None:
    write_nifti(study, tmp_path)
    image = nib.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), study.hu)
    header = read(series)[5]
    column, row = 20, 90
    orientation = np.array(header.ImageOrientationPatient, float)
    lps = (
        np.array(header.ImagePositionPatient, float)
        + orientation[:3] * float(header.PixelSpacing[1]) * column
        + orientation[3:] * float(header.PixelSpacing[0]) * row
    )
    ras = image.affine @ [column, row, 5, 1]
    np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-3)


def test_nifti_masks_add_up(study: PhantomStudy, tmp_path: Path) -> None:
    write_nifti(study, tmp_path)
    union = np.asanyarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    kinds = [kind for kind in BleedType if kind]
    parts = sum(
        np.asanyarray(nib.load(tmp_path / f"mask_{kind.name.lower()}.nii.gz").dataobj)
        for kind in kinds
    )
    np.testing.assert_array_equal(union, parts)
    assert union.sum() == (study.bleeds > 0).sum() > 0


def test_truth_names_a_pixel_inside_the_bleed(study: PhantomStudy, series: Path) -> None:
    truth = json.loads((series / "truth.json").read_text())
    spot = truth["suggested_click"]
    kind = BleedType[spot["type"].upper()]
    around = study.bleeds[spot["z"], spot["y"] - 1 : spot["y"] + 2, spot["x"] - 1 : spot["x"] + 2]
    assert (around == kind).all()
    assert spot["point"] == f"{spot['x']},{spot['y']},{spot['z']}"
    assert truth["volume_ml"]["subdural"] == pytest.approx(
        study.volume_ml(BleedType.SUBDURAL), abs=1e-3
    )
    extents = np.array([4.5, 5, 5, 5, 5, 5, 5, 4.5])  # half a gap and half a thickness at the ends
    assert truth["volume_total_ml"] == pytest.approx(
        np.dot(truth["area_mm2"], extents) / 1000, rel=1e-3
    )


def test_no_bleed_no_click() -> None:
    empty = generate_study(1, PhantomOptions(matrix=128, slices=2, bleeds=()))
    assert suggested_click(empty) is None
