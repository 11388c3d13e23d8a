"""DICOM SEG, read back by pydicom and by highdicom: geometry, references, codes, empty results."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, SegmentationStorage

from samihs_runtime.deidentify import deidentified
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.lossy import LossyCompression
from samihs_runtime.measurement import masks_by_slice
from samihs_runtime.probability import Evidence
from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.study import read_study
from samihs_runtime.writers.capture import build_capture
from samihs_runtime.writers.seg import build_seg, write_seg
from samihs_runtime.writers.seg_source import decimals
from tests.runtime.dicom_factory import write_series
from tests.runtime.series_factory import PLANTED, make_lesion, make_report, make_series, not_found

GE_TILT: dict[str, Any] = {
    "positions": (0, 4, 8, 9.08, 16.08, 23.08),
    "thickness": [4, 4, 4, 7, 7, 7],
    "tilt_deg": 18.5,
}
"""The gaps, thicknesses and tilt of a real GE brain series."""


def written(series: CTSeries, lesion: Lesion, folder: Path) -> Any:
    path = folder / "seg.dcm"
    write_seg(series, lesion, make_report(), path)
    return path


def group(dataset: Any, frame: Any, keyword: str) -> Any:
    """A functional group's item, in the frame or shared: never both."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert (keyword in shared) != (keyword in frame)
    return (frame if keyword in frame else shared)[keyword].value[0]


def assert_same_geometry(dataset: Any, series: CTSeries, lesion: Lesion) -> None:
    """Every frame lies where its source lies, is as large, as thick, and has the same mask."""
    masks = masks_by_slice(lesion) or {lesion.clicked_slice: np.zeros(series.shape, bool)}
    places = np.array([plane.position for plane in series.planes])
    pixels = dataset.pixel_array.reshape(-1, *series.shape)
    seen = []
    for frame, mask in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        index = int(np.linalg.norm(places - position, axis=1).argmin())
        np.testing.assert_allclose(position, places[index], atol=1e-9)
        plane, source = series.planes[index], series.sources[index]
        orientation = group(dataset, frame, "PlaneOrientationSequence").ImageOrientationPatient
        measures = group(dataset, frame, "PixelMeasuresSequence")
        expected = [*plane.row_direction, *plane.column_direction]
        np.testing.assert_allclose(np.array(orientation, float), expected, atol=1e-12)
        assert tuple(map(float, measures.PixelSpacing)) == plane.spacing
        thickness = plane.thickness or series.extents_mm[index]
        assert float(measures.SliceThickness) == pytest.approx(thickness)
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.sop_instance_uid
        assert reference.ReferencedSOPClassUID == source.sop_class_uid
        assert reference.get("ReferencedFrameNumber") == source.frame
        np.testing.assert_array_equal(mask, masks[index])
        seen.append(index)
    assert sorted(seen) == sorted(masks)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tilt_deg": -12.0, "spacing": (0.45, 0.6), "shape": (48, 72)},
        GE_TILT,
        {"positions": (0.0,)},
        {"enhanced": True},
        {"enhanced": True, **GE_TILT},
        {"thickness": None},
    ],
    ids=["plain", "tilted", "uneven", "single", "enhanced", "enhanced-uneven", "no-thickness"],
)
@pytest.mark.parametrize("found", [True, False], ids=["found", "not-found"])
def test_geometry_equals_the_sources(changes: dict[str, Any], found: bool, tmp_path: Path) -> None:
    series = make_series(**changes)
    last = len(series) - 1
    indices = (0,) if last == 0 else (1, 2, 3)
    lesion = make_lesion(series, indices) if found else not_found(min(2, last))
    path = written(series, lesion, tmp_path)
    assert_same_geometry(pydicom.dcmread(path), series, lesion)
    read = hd.seg.segread(path)
    assert read.SOPClassUID == SegmentationStorage
    assert read.SegmentationType == "BINARY"
    assert read.NumberOfFrames == (len(indices) if found else 1)


def test_highdicom_finds_the_masks_by_source_instance(tmp_path: Path) -> None:
    series = make_series(**GE_TILT)
    lesion = make_lesion(series, (1, 2, 4))
    read = hd.seg.segread(written(series, lesion, tmp_path))
    uids = [series.sources[index].sop_instance_uid for index in (4, 1)]
    pixels = read.get_pixels_by_source_instance(uids)[..., 0]
    np.testing.assert_array_equal(pixels, [lesion.slices[2].mask, lesion.slices[0].mask])


def test_highdicom_finds_the_masks_by_source_frame(tmp_path: Path) -> None:
    """Frames are stored from the vertex down: slice 1 of 5 is frame 4."""
    series = make_series(enhanced=True)
    lesion = make_lesion(series, (1,))
    read = hd.seg.segread(written(series, lesion, tmp_path))
    pixels = read.get_pixels_by_source_frame(series.sources[0].sop_instance_uid, [4])[..., 0]
    np.testing.assert_array_equal(pixels[0], lesion.slices[0].mask)
    (instance,) = read.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPClassUID == EnhancedCTImageStorage
    assert len(read.SourceImageSequence) == 1


def test_highdicom_makes_a_volume_of_an_even_series(tmp_path: Path) -> None:
    series = make_series()
    read = hd.seg.segread(written(series, make_lesion(series), tmp_path))
    volume = read.get_volume(combine_segments=True)
    assert sorted(volume.spacing) == [0.5, 0.5, 5.0]
    assert volume.array.sum() == 3 * 8 * 6


def test_thickness_is_shared_where_it_is_one_and_spread_where_not(tmp_path: Path) -> None:
    even, uneven = make_series(), make_series(**GE_TILT)
    shared = pydicom.dcmread(written(even, make_lesion(even), tmp_path))
    measures = shared.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (5, 5)
    spread = pydicom.dcmread(written(uneven, make_lesion(uneven), tmp_path))
    frames = spread.PerFrameFunctionalGroupsSequence
    thicknesses = sorted(frame.PixelMeasuresSequence[0].SliceThickness for frame in frames)
    assert thicknesses == [4, 4, 7]
    assert all("SpacingBetweenSlices" not in f.PixelMeasuresSequence[0] for f in frames)


def test_codes_and_algorithm() -> None:
    series = make_series()
    (segment,) = build_seg(series, make_lesion(series), make_report()).SegmentSequence
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"
    assert segment.AnatomicRegionSequence[0].CodeValue == "1101003"
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "samihs-vit-mini"
    assert "bundle_sha256=" + "3f" * 32 in algorithm.AlgorithmParameters
    assert "not for clinical use" in algorithm.AlgorithmParameters


def test_codes_stand_in_the_standards_dictionary() -> None:
    """Meaning and context groups as pydicom's copy of PS3.16 has them."""
    from pydicom.sr.codedict import codes

    assert codes.cid7159.Hemorrhage.value == "50960005"
    assert codes.cid7150.MorphologicallyAbnormalStructure.value == "49755003"
    assert codes.cid4.Intracranial.value == "1101003"
    assert codes.cid7162.ArtificialIntelligence.value == "123110"


def test_patient_and_study_are_the_sources(tmp_path: Path) -> None:
    series = make_series()
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID"):
        assert dataset[keyword].value == PLANTED[keyword]
    header = series.sources[0].header
    assert dataset.StudyInstanceUID == header.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert dataset.SeriesInstanceUID != header.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID


def test_what_a_source_lacks_is_filled_on_a_copy(tmp_path: Path) -> None:
    missing = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "StudyTime", "FrameOfReferenceUID")
    )  # fmt: skip
    series = make_series(**missing, StudyDate="1999.05.05")
    before = [source.header.to_json() for source in series.sources]
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset.StudyDate == "19990505"
    assert not dataset.PatientName
    assert not dataset.PatientID
    assert dataset.FrameOfReferenceUID
    assert [source.header.to_json() for source in series.sources] == before


def test_objects_of_one_series_share_the_uids_that_it_lacks() -> None:
    series = make_series(StudyInstanceUID=None, FrameOfReferenceUID=None)
    lesions = (make_lesion(series, (1, 2)), make_lesion(series, (3,)))
    made = [build_seg(series, lesion, make_report()) for lesion in lesions]
    picture = np.zeros((8, 8, 3), np.uint8)
    made.append(build_capture(series, lesions[1], make_report(), picture))
    studies = {each.StudyInstanceUID for each in made}
    frames = {each.FrameOfReferenceUID for each in made[:2]}  # a picture has none
    assert len(studies) == len(frames) == len(studies ^ frames) / 2 == 1
    for other in (replace(series, series_uid="1.2.3"), deidentified(series)):
        assert build_seg(other, lesions[0], make_report()).StudyInstanceUID not in studies


def test_a_study_of_two_uids_has_one() -> None:
    """As a backslash in the UID produces."""
    series = make_series(StudyInstanceUID=["1.2.3", "4.5"])
    uid = build_seg(series, make_lesion(series), make_report()).StudyInstanceUID
    assert isinstance(uid, str)
    assert uid.startswith("2.25.")


@pytest.mark.parametrize("deidentify", [False, True])
def test_no_uid_is_empty_or_anothers_if_a_series_has_none_at_all(deidentify: bool) -> None:
    made = []
    for hu in (40, 50):
        series = make_series(StudyInstanceUID=None, FrameOfReferenceUID=None)
        series.hu[0] = hu
        sources = tuple(replace(source, sop_instance_uid="") for source in series.sources)
        series = replace(series, series_uid="", sources=sources)
        lesion = make_lesion(series)
        series = deidentified(series) if deidentify else series
        made.append(build_seg(series, lesion, make_report()))
    one, other = ({str(each.value) for each in seg.iterall() if each.VR == "UI"} for seg in made)
    assert "" not in one
    assert len({each.ReferencedSOPInstanceUID for each in made[0].SourceImageSequence}) == 3
    assert not {each for each in one & other if each.startswith("2.25.")}


@pytest.mark.parametrize(
    ("character_set", "name", "words"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "頭部"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "두부"),
        ("ISO_IR 100", "Buc^Jérôme", "tête"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东", "头部"),
        ("ISO 2022 IR 100", "Doe^Jane", "head"),
        ("ISO_IR 6", "Doe^Jane", "head"),
        ("", "Doe^Jane", "head"),
        (None, "Doe^Jane", "head"),
    ],
)
def test_text_is_what_it_was_in_any_character_set(
    character_set: str | list[str] | None, name: str, words: str, tmp_path: Path
) -> None:
    """Those of Japan and Korea, and those that highdicom takes for wrong; in sequences, too."""
    procedure = Dataset()
    procedure.CodeMeaning = words
    tags = {"PatientName": name, "StudyDescription": words, "ProcedureCodeSequence": [procedure]}
    write_series(tmp_path / "study", 1, SpecificCharacterSet=character_set, **tags)
    series = read_study(tmp_path / "study")
    dataset = pydicom.dcmread(written(series, make_lesion(series, (0,), centre=(5, 5)), tmp_path))
    assert dataset.PatientName == name
    assert dataset.StudyDescription == words
    assert dataset.ProcedureCodeSequence[0].CodeMeaning == words


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "19470000"),
        ("PatientBirthDate", "00000000"),
        ("StudyDate", "20230229"),
        ("StudyTime", "256060"),
        ("StudyTime", "1061"),
    ],
)
def test_dates_and_times_that_cannot_be_are_left_empty(
    keyword: str, value: str, tmp_path: Path
) -> None:
    series = make_series(**{keyword: value})
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset[keyword].value == ""


def test_what_cannot_be_converted_is_left_behind(tmp_path: Path) -> None:
    series = make_series()
    size = Tag("PatientSize")
    for source in series.sources:
        source.header._dict[size] = RawDataElement(size, "US", 1, b"x", 0, False, True)
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert "PatientSize" not in dataset
    assert dataset.PatientID == PLANTED["PatientID"]


JPEG = LossyCompression("JPEG", methods=("ISO_10918_1",), ratios=(12.5,))


def test_once_lossy_always_lossy(tmp_path: Path) -> None:
    """The header of one slice of three says nothing of it, the others' that there was no loss."""
    series = make_series(lossy={3: JPEG})
    seg = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionMethod == "ISO_10918_1"
    assert seg.LossyImageCompressionRatio == 12.5
    hidden = pydicom.dcmread(written(deidentified(series), make_lesion(series), tmp_path))
    assert hidden.LossyImageCompression == "01"
    elsewhere = make_series(lossy={0: JPEG})
    seg = pydicom.dcmread(written(elsewhere, make_lesion(elsewhere), tmp_path))
    assert seg.LossyImageCompression == "00"


def test_of_a_loss_only_what_is_known_is_said(tmp_path: Path) -> None:
    series = make_series(lossy={2: LossyCompression("method not stated")})
    seg = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert seg.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in seg
    assert "LossyImageCompressionRatio" not in seg


def test_an_empty_result_says_so(tmp_path: Path) -> None:
    series = make_series()
    dataset = pydicom.dcmread(written(series, not_found(3), tmp_path))
    assert not dataset.pixel_array.any()
    assert "No hemorrhage found" in dataset.ContentDescription
    (frame,) = dataset.PerFrameFunctionalGroupsSequence
    position = frame.PlanePositionSequence[0].ImagePositionPatient
    assert tuple(map(float, position)) == series.planes[3].position
    (instance,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == series.sources[3].sop_instance_uid
    assert instance.ReferencedSOPClassUID == CTImageStorage


@pytest.mark.parametrize("value", [0.1, -123.5404569, 1 / 3, -1e-17, 12345678.123456789, 5.0])
def test_decimal_strings_fit_and_are_exact_where_they_can_be(value: float) -> None:
    (text,) = decimals([value])
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-9, abs=1e-12)
    if len(repr(value)) <= 16:
        assert float(text) == value


@pytest.mark.shared_data
def test_real_tilted_uneven_series(tmp_path: Path) -> None:
    """GE HiSpeed brain: 4 and 7 mm frames, each with its own thickness."""
    folder = Path(__file__).parents[3] / ".." / "shared" / "data" / "ct" / "ge_tilt"
    if not folder.is_dir():
        pytest.skip("../shared/data/ct/ge_tilt is not beside the checkout")
    series = read_study(folder)
    lesion = make_lesion(series, (12, 13, 14, 15), centre=(300, 300), size=(30, 40))
    dataset = pydicom.dcmread(written(series, lesion, tmp_path))
    assert_same_geometry(dataset, series, lesion)
    frames = dataset.PerFrameFunctionalGroupsSequence
    assert {float(f.PixelMeasuresSequence[0].SliceThickness) for f in frames} == {4.0, 7.0}


def test_fractional_holds_the_probability(tmp_path: Path) -> None:
    """What the decoder's logits say of each pixel, within a step of 1/255; other blobs are zero."""
    series = make_series()
    lesion = make_lesion(series, (1, 2))
    logits = np.full((64, 64), -9.0, np.float32)
    logits[lesion.slices[0].mask] = 1.5
    logits[2:6, 50:60] = 4.0  # the model saw something else there
    evidence = Evidence(logits, SliceFrame(64, 64, 64))
    lesion = replace(
        lesion, slices=tuple(replace(part, evidence=evidence) for part in lesion.slices)
    )
    path = tmp_path / "seg.dcm"
    write_seg(series, lesion, make_report(), path, fractional=True)
    dataset = pydicom.dcmread(path)
    assert (dataset.SegmentationType, dataset.MaximumFractionalValue) == ("FRACTIONAL", 255)
    assert dataset.SegmentationFractionalType == "PROBABILITY"
    for frame in dataset.pixel_array:
        inside = frame[lesion.slices[0].mask] / 255
        np.testing.assert_allclose(inside, 1 / (1 + np.exp(-1.5)), atol=1 / 255)
        assert not frame[2:6, 50:60].any()


def test_fractional_of_a_mask_alone_is_sure(tmp_path: Path) -> None:
    series = make_series()
    lesion = make_lesion(series)
    dataset = build_seg(series, lesion, make_report(), fractional=True)
    np.testing.assert_array_equal(dataset.pixel_array[0] == 255, lesion.slices[0].mask)


def test_dcmtk_reads_every_frame(tmp_path: Path) -> None:
    """A second implementation parses the object, finds the frames and complains of nothing."""
    dcmdump = shutil.which("dcmdump")
    if dcmdump is None:
        pytest.skip("dcmdump (Debian: dcmtk) is not installed")
    series = make_series(**GE_TILT)
    lesion = make_lesion(series, (1, 2, 3))
    for fractional in (False, True):
        path = tmp_path / "seg.dcm"
        write_seg(series, lesion, make_report(), path, fractional=fractional)
        done = subprocess.run([dcmdump, path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert re.search(r"\(0028,0008\) IS \[3\]", done.stdout)
        for index in (1, 2, 3):
            assert series.sources[index].sop_instance_uid in done.stdout


@pytest.mark.parametrize("name", ["Zzyzxova^Quirine\\Zzyzxova^Ottoline", "\\Ottoline"])
def test_of_a_name_with_a_backslash_the_first_value_is_taken(name: str, tmp_path: Path) -> None:
    series = make_series(PatientName=name, ReferringPhysicianName=name)
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset.PatientName == dataset.ReferringPhysicianName == name.split("\\")[0]
