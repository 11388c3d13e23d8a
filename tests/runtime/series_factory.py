"""CT series in memory, as the reader would give them, with headers as scanners write them.

Patient and study carry planted identity, so that tests can search for it in what is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, generate_uid

from samihs_runtime.lossy import LossyCompression
from samihs_runtime.report import Report
from samihs_runtime.segmentation import Lesion, Prompt, SliceMask
from samihs_runtime.series import CTSeries, SlicePlane, SourceSlice

PLANTED = {
    "PatientName": "Zzyzxova^Quirine^Ottoline",
    "PatientID": "MRN-7781234",
    "PatientBirthDate": "19470831",
    "AccessionNumber": "ACC9981776",
    "StudyID": "STU55123",
    "ReferringPhysicianName": "Grumblethwaite^Ignatius",
    "InstitutionName": "Nowhere General",
    "OtherPatientIDs": ["OLD-4410-X"],
}
"""Identity that must not turn up outside DICOM objects."""


def header(**changes: Any) -> Dataset:
    """A CT slice's header without pixels; a keyword of value None is left out."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientSex": "F",
        "PatientAge": "076Y",
        **PLANTED,
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1001",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.1002",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.1003",
        "StudyDate": "20240102",
        "StudyTime": "101112.5",
        "StudyDescription": "CT HEAD WITHOUT",
        "Modality": "CT",
        "Manufacturer": "Vendor",
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "KVP": "120",
        "LossyImageCompression": "00",
        **changes,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # malformed values are asked for on purpose
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
    return dataset


def make_series(
    positions: Sequence[float] = (0.0, 5.0, 10.0, 15.0, 20.0),
    *,
    shape: tuple[int, int] = (64, 64),
    spacing: tuple[float, float] = (0.5, 0.5),
    thickness: float | Sequence[float] | None = 5.0,
    tilt_deg: float = 0.0,
    table_mm: Sequence[float] | None = None,
    enhanced: bool = False,
    notes: tuple[str, ...] = (),
    lossy: Mapping[int, LossyCompression] | None = None,
    description: str = "Head 5 mm",
    **changes: Any,
) -> CTSeries:
    """A series of a grey disc: 35 HU brain, 1000 HU rim, air around.

    Args:
        positions: distance of each slice along the normal, mm.
        shape: rows, columns.
        spacing: mm between rows, between columns.
        thickness: one for all, or one a slice.
        tilt_deg: gantry tilt: the normal leans, and slices shift along the table (z), as they do.
        table_mm: table position of each slice where not implied by `positions`.
        enhanced: one Enhanced CT object with a frame for each slice, instead of single objects.
        notes, description: as the reader would give them.
        lossy: by slice index, as the reader would give it.
        changes: header attributes; None leaves one out.
    """
    tilt = np.deg2rad(tilt_deg)
    row, column = (1.0, 0.0, 0.0), (0.0, float(np.cos(tilt)), float(-np.sin(tilt)))
    per_slice = list(thickness) if isinstance(thickness, Sequence) else [thickness] * len(positions)
    tables = [distance / np.cos(tilt) for distance in positions] if table_mm is None else table_mm
    planes = tuple(
        SlicePlane((-16.0, -20.25, -30.125 + float(table)), row, column, spacing, thick)
        for table, thick in zip(tables, per_slice, strict=True)
    )
    return CTSeries(
        hu=_disc(len(positions), shape),
        planes=planes,
        extents_mm=_extents(positions, per_slice),
        sources=tuple(
            replace(source, lossy=(lossy or {}).get(index))
            for index, source in enumerate(_sources(len(positions), enhanced, changes))
        ),
        series_uid="1.2.826.0.1.3680043.8.498.1002",
        description=description,
        notes=notes,
    )


def _disc(count: int, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.int16]]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = np.hypot((y - (shape[0] - 1) / 2) / shape[0], (x - (shape[1] - 1) / 2) / shape[1])
    plane = np.full(shape, -1000, dtype=np.int16)
    plane[radius < 0.45] = 1000
    plane[radius < 0.41] = 35
    return np.repeat(plane[None], count, axis=0)


def _extents(
    positions: Sequence[float], thickness: Sequence[float | None]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Half the distance to each neighbour, half the thickness at an end, as CTSeries says."""
    half = np.diff(np.asarray(positions, dtype=np.float64)) / 2
    below = np.concatenate([[(thickness[0] or 0.0) / 2], half])
    above = np.concatenate([half, [(thickness[-1] or 0.0) / 2]])
    return below + above


def _sources(count: int, enhanced: bool, changes: dict[str, Any]) -> tuple[SourceSlice, ...]:
    if not enhanced:
        headers = [header(InstanceNumber=index + 1, **changes) for index in range(count)]
        return tuple(
            SourceSlice(Path(f"IM{i}.dcm"), CTImageStorage, str(each.SOPInstanceUID), None, each)
            for i, each in enumerate(headers)
        )
    one = header(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=count, **changes)
    # Stored from the vertex down, as objects may be: the frame number is not the slice index.
    return tuple(
        SourceSlice(
            Path("IM.dcm"), EnhancedCTImageStorage, str(one.SOPInstanceUID), count - index, one
        )
        for index in range(count)
    )


def make_lesion(
    series: CTSeries,
    indices: Sequence[int] = (1, 2, 3),
    *,
    centre: tuple[int, int] = (30, 26),
    size: tuple[int, int] = (8, 6),
    clicked: int | None = None,
) -> Lesion:
    """A block of `size` (rows, columns) around `centre` (row, column), 70 HU in the series."""
    top, left = centre[0] - size[0] // 2, centre[1] - size[1] // 2
    mask = np.zeros(series.shape, dtype=bool)
    mask[top : top + size[0], left : left + size[1]] = True
    clicked = indices[len(indices) // 2] if clicked is None else clicked
    prompt = Prompt(((float(centre[1]), float(centre[0])),), (1,))
    for index in indices:
        series.hu[index][mask] = 70
    return Lesion(
        found=True,
        score=0.93,
        clicked_slice=clicked,
        slices=tuple(
            SliceMask(
                index,
                mask,
                0.93 - 0.02 * abs(index - clicked),
                "clicked" if index == clicked else "propagated",
                prompt,
            )
            for index in indices
        ),
        stop_reasons=("towards slice 0: the mask fell to 8 % of its area",),
    )


def not_found(clicked: int = 2) -> Lesion:
    """The answer to a click beside every hemorrhage."""
    return Lesion(found=False, score=0.08, clicked_slice=clicked, slices=(), notes=("no bleed",))


def make_report(**changes: Any) -> Report:
    """What a run with the shipped bundle would know."""
    values: dict[str, Any] = {
        "bundle_name": "samihs-vit-mini",
        "bundle_version": "1",
        "bundle_id": "3f" * 32,
        "training_data": "Trained on synthetic CT only",
        "clinical_use": False,
        "backend": "cpu",
        "backend_description": "onnxruntime 1.20 CPU, fp32",
        "backend_reason": "no GPU found",
        "prompt": Prompt(((26.0, 30.0),), (1,)),
        "slice_choice": "given",
        "score_threshold": 0.5,
        "timings": {"load": 0.12, "encode": 0.21, "click": 0.03},
        "tool_version": "0.1.0",
        **changes,
    }
    return Report(**values)


BALL = (4, 30, 36)  # slice, row, column of its centre
RADIUS = 12  # pixels; 2.5 mm slices of 0.5 mm pixels, so 5 pixels a slice


def ball_series(**changes: object) -> CTSeries:
    series = make_series(positions=[2.5 * z for z in range(9)], thickness=2.5)
    z, y, x = np.mgrid[:9, :64, :64]
    distance = np.hypot(np.hypot(y - BALL[1], x - BALL[2]), 5.0 * (z - BALL[0]))
    hu = np.where(distance <= RADIUS, 70, 30).astype(np.int16)
    return replace(series, hu=hu, **changes)
