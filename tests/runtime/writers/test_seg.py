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
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, SegmentationStorage

from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.measurement import masks_by_slice
from samihs_runtime.probability import Evidence
from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.study import read_study
from samihs_runtime.writers.seg import build_seg, write_seg
from tests.runtime.series_factory import make_lesion, make_report, make_series, not_found

from .seg_file import written

GE_TILT: dict[str, Any] = {
    "positions": (0, 4, 8, 9.08, 16.08, 23.08),
    "thickness": [4, 4, 4, 7, 7, 7],
    "tilt_deg": 18.5,
}
"""The gaps, thicknesses and tilt of a real GE brain series."""


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


def test_a_fractional_seg_is_the_mask_above_one_half(tmp_path: Path) -> None:
    """Also where a faint bridge leads to another blob, a hole was filled, or the threshold grazes
    the mask's edge."""
    series = make_series()
    lesion = make_lesion(series, (1,))
    mask = lesion.slices[0].mask  # rows 26 to 33, columns 23 to 28
    logits = np.full((64, 64), -9.0, np.float32)
    logits[mask] = 1.5
    logits[29:31, 25:27] = -3.0
    logits[28:32, 29:45] = -1.0
    logits[28:32, 29] = 0.001
    logits[24:36, 45:57] = 4.0
    evidence = Evidence(logits, SliceFrame(64, 64, 64))
    part = replace(lesion.slices[0], evidence=evidence)
    write_seg(
        series, replace(lesion, slices=(part,)), make_report(), tmp_path / "seg", fractional=True
    )
    stored = pydicom.dcmread(tmp_path / "seg").pixel_array.reshape(64, 64)
    np.testing.assert_array_equal(stored / 255 >= 0.5, mask)
    assert set(stored[28:32, 29]) == {127}
    assert (stored[28:32, 30:37] == 69).all()  # the bridge's near half: the sigmoid of -1
    assert not stored[:, 37:].any()


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
