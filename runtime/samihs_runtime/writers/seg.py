"""DICOM Segmentation (PS3.3 A.51), with each frame at the position of its source slice.

BINARY, or FRACTIONAL with the model's probability on request.

highdicom writes the object. Three things are done around it:

- Sources are passed as copies that have what the standard requires (type 2 attributes may be absent
  in real files) and one frame each; a frame of an Enhanced CT is referenced by its number
  afterwards. The files themselves are never touched.
- highdicom shares one PixelMeasures among all frames. If thickness, spacing or orientation vary
  over the lesion, these are moved into the frames (PS3.3 C.7.6.16.2.1 and .4 allow either).
- A result that found nothing is one empty frame on the clicked slice: "looked here, found nothing",
  in the same kind of object that a PACS expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.lossy import mark_lossy
from samihs_runtime.measurement import Mask, masks_by_slice
from samihs_runtime.probability import LEVELS
from samihs_runtime.quiet_dicom import quiet_dicom
from samihs_runtime.uids import storable_uid
from samihs_runtime.writers.naming import SEG_SERIES, lesion_name, series_number
from samihs_runtime.writers.seg_source import (
    decimals,
    missing_uid,
    placeholder_uid,
    source_datasets,
)

if TYPE_CHECKING:
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries, SlicePlane

EVEN_SPACING_MM = 0.01
"""Gaps that differ by less count as equal; positions are often rounded to 0.001 or 0.01 mm."""
MORPHOLOGICALLY_ABNORMAL = ("49755003", "SCT", "Morphologically abnormal structure")  # CID 7150
HEMORRHAGE = ("50960005", "SCT", "Hemorrhage")  # CID 7159 "Lesion Segmentation Types"
INTRACRANIAL = ("1101003", "SCT", "Intracranial")  # CID 4 "Anatomic Region"
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")  # CID 7162
VERMILION_CIELAB = (64.0, 58.0, 57.0)  # the overlay's contour colour


def write_seg(
    series: CTSeries, lesion: Lesion, report: Report, path: Path, *, fractional: bool = False
) -> None:
    """Write the lesion as a DICOM SEG, with one frame for each slice with mask.

    Args:
        series: the series that was clicked on; patient and study are taken from its headers.
        lesion: the answer.
        report: what is known about the run.
        path: the file.
        fractional: write the model's probability, in steps of 1/255, instead of the mask.

    Raises:
        OSError: the file cannot be written.
    """
    with quiet_dicom():
        build_seg(series, lesion, report, fractional=fractional).save_as(path)


def build_seg(series: CTSeries, lesion: Lesion, report: Report, *, fractional: bool = False) -> Any:
    """The SEG as a ``highdicom.seg.Segmentation`` (a ``pydicom.Dataset``)."""
    import highdicom as hd

    masks = masks_by_slice(lesion)
    if not masks:
        masks = {lesion.clicked_slice: np.zeros(series.shape, dtype=bool)}
    indices = list(masks)
    types = hd.seg.SegmentationTypeValues
    with quiet_dicom():
        segmentation = hd.seg.Segmentation(
            source_images=source_datasets(series, indices),
            pixel_array=_probabilities(lesion, masks) if fractional else _binary(masks),
            segmentation_type=types.FRACTIONAL if fractional else types.BINARY,
            fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
            max_fractional_value=LEVELS,
            segment_descriptions=[_segment(lesion, report)],
            series_instance_uid=hd.UID(),
            series_number=series_number(SEG_SERIES, report.lesion_number),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="SAMIHS",
            manufacturer_model_name=report.bundle_name[:64],
            software_versions=[f"samihs {report.version}", f"bundle {report.bundle_version}"],
            device_serial_number=report.bundle_id[:64],
            series_description=f"{lesion_name(report.lesion_number)} (SAMIHS, research)",
            content_label="HEMORRHAGE",
            content_description=_content_description(lesion),
            omit_empty_frames=False,
        )
    frames = _frames_by_slice(segmentation, indices)
    _place_frames(segmentation, series, frames)
    _name_frames(segmentation, series, frames)
    # highdicom looks only at the first source's header, which may not state it.
    mark_lossy(segmentation, (series.sources[index].lossy for index in indices))
    return segmentation


def _binary(masks: dict[int, Mask]) -> NDArray[np.uint8]:
    """[frames, rows, columns], 0 or 1."""
    return np.stack(list(masks.values())).astype(np.uint8)


def _probabilities(lesion: Lesion, masks: dict[int, Mask]) -> NDArray[np.float32]:
    """[frames, rows, columns], 0 to 1; a mask without further evidence counts as certain."""
    planes = {index: np.zeros(mask.shape, np.float32) for index, mask in masks.items()}
    for part in lesion.slices:
        if part.index in planes:
            known = part.evidence
            soft = known.probability(part.mask) if known else part.mask.astype(np.float32)
            planes[part.index] = np.maximum(planes[part.index], soft)
    return np.stack(list(planes.values()))


def _frames_by_slice(segmentation: Any, indices: list[int]) -> dict[int, Any]:
    """Slice index -> its frame's functional groups, in whatever order highdicom wrote them."""
    slices = {placeholder_uid(index): index for index in indices}
    frames = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        frames[slices[source.ReferencedSOPInstanceUID]] = frame
    return frames


def _segment(lesion: Lesion, report: Report) -> Any:
    """The only segment: intracranial hemorrhage, made by this bundle."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    algorithm = hd.AlgorithmIdentificationSequence(
        name=report.bundle_name[:64],
        family=Code(*ARTIFICIAL_INTELLIGENCE),
        version=report.bundle_version[:64],
        source="SAMIHS",
        parameters={
            "bundle_sha256": report.bundle_id,
            "backend": report.backend,
            "score": f"{lesion.score:.4f}",
            "statement": report.statement,
        },
    )
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=lesion_name(report.lesion_number),
        segmented_property_category=Code(*MORPHOLOGICALLY_ABNORMAL),
        segmented_property_type=Code(*HEMORRHAGE),
        anatomic_regions=[Code(*INTRACRANIAL)],
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,  # a person clicked
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"hemorrhage {report.lesion_number}",
        display_color=hd.color.CIELabColor(*VERMILION_CIELAB),
    )


def _content_description(lesion: Lesion) -> str:
    """At most 64 characters (LO)."""
    if not lesion.found:
        return "No hemorrhage found at the click; one empty frame"
    return "Clicked hemorrhage; research software, not for clinical use"


def _place_frames(segmentation: Any, series: CTSeries, frames: dict[int, Any]) -> None:
    """Give each frame its own pixel measures and orientation, or share them if all agree."""
    spacing = _even_spacing(series)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    planes = [series.planes[index] for index in frames]
    extents = [float(series.extents_mm[index]) for index in frames]
    _share_or_spread(
        shared,
        list(frames.values()),
        "PixelMeasuresSequence",
        [_pixel_measures(*frame, spacing) for frame in zip(planes, extents, strict=True)],
    )
    _share_or_spread(
        shared,
        list(frames.values()),
        "PlaneOrientationSequence",
        [_plane_orientation(plane) for plane in planes],
    )


def _share_or_spread(shared: Any, frames: list[Any], keyword: str, items: list[Any]) -> None:
    """Put a functional group into the shared sequence or into every frame, never into both."""
    delattr(shared, keyword)
    if all(item == items[0] for item in items):
        setattr(shared, keyword, [items[0]])
        return
    for frame, item in zip(frames, items, strict=True):
        setattr(frame, keyword, [item])


def _even_spacing(series: CTSeries) -> float | None:
    """Distance between neighbours along the normal, mm, if it is the same in the whole series."""
    if len(series) < 2:
        return None
    normal = series.planes[0].normal
    gaps = np.diff([float(np.dot(plane.position, normal)) for plane in series.planes])
    mean = float(gaps.mean())
    return round(mean, 6) if np.abs(gaps - mean).max() < EVEN_SPACING_MM else None


def _pixel_measures(plane: SlicePlane, extent_mm: float, spacing: float | None) -> Any:
    """PS3.3 C.7.6.16.2.1, one item.

    If the thickness is unknown, the frame is as thick as the extent with which it counts in the
    volume: an empty value is not allowed, and highdicom cannot read objects without the attribute.
    """
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PixelSpacing = decimals(plane.spacing)
    thickness = round(extent_mm, 6) if plane.thickness is None else plane.thickness
    item.SliceThickness = decimals([thickness])[0]
    if spacing is not None:
        item.SpacingBetweenSlices = decimals([spacing])[0]
    return item


def _plane_orientation(plane: SlicePlane) -> Any:
    """PS3.3 C.7.6.16.2.4, one item."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ImageOrientationPatient = decimals([*plane.row_direction, *plane.column_direction])
    return item


def _name_frames(segmentation: Any, series: CTSeries, frames: dict[int, Any]) -> None:
    """Refer to the actual sources, each object once; by frame number if they are frames."""
    classes: dict[str, str] = {}
    for index, frame in frames.items():
        source = series.sources[index]
        own = storable_uid(source.sop_instance_uid)
        uid = own or missing_uid(series, f"SOPInstanceUID {index}")
        classes[uid] = source.sop_class_uid
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        item.ReferencedSOPClassUID = source.sop_class_uid
        item.ReferencedSOPInstanceUID = uid
        if source.frame is not None:
            item.ReferencedFrameNumber = source.frame
    segmentation.SourceImageSequence = _references(classes)
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = _references(classes)


def _references(classes: dict[str, str]) -> list[Any]:
    """SOP Instance Reference macro (PS3.3 table 10-11), one item for each object."""
    from pydicom.dataset import Dataset

    items = []
    for instance_uid, class_uid in classes.items():
        item = Dataset()
        item.ReferencedSOPClassUID = class_uid
        item.ReferencedSOPInstanceUID = instance_uid
        items.append(item)
    return items
