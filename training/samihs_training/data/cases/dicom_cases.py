"""Which DICOM SEG belongs to which CT series, wherever an export has put the two.

A SEG names the series that it was drawn on. Archives write series and SEG into one folder or into a
folder for each, and a study holds other series besides: localizers, thin slices, sharp kernels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samihs_training.data.cases.case import CaseFiles

CT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
"""CT, enhanced CT and legacy converted enhanced CT; PS3.4 B.5."""
SEG_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.66.{end}" for end in (4, 7))
"""Segmentation and label map segmentation."""
_TAGS = [
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "ReferencedSeriesSequence",
]  # fmt: skip


@dataclass(frozen=True)
class DicomCase(CaseFiles):
    """A CT series and the SEG drawn on it."""

    series_uid: str = ""
    slices: tuple[Path, ...] = ()
    """Files of the series."""
    segmentations: tuple[Path, ...] = ()
    """SEG objects that refer to the series; a case that can be read has one."""

    def files(self) -> list[Path]:
        """See :meth:`CaseFiles.files`."""
        return [*self.slices, *self.segmentations]


@dataclass(frozen=True)
class _Object:
    """What is read of a CT image or a SEG."""

    path: Path
    study: str
    series: str
    """Of a SEG: the series that it refers to; empty if it names none, or several."""
    patient: str


def find_dicom_cases(root: Path) -> list[CaseFiles]:
    """A case for each CT series with a SEG; faulty ones for each SEG without its series, and for
    each study without SEG.

    A series without SEG is no case if another series of its study has one. A SEG that names no
    series belongs to the one in its folder.
    """
    images, segmentations = _objects(root)
    of_series, of_study = _grouped(images, "series"), _grouped(images, "study")
    drawn_on: dict[str, list[_Object]] = defaultdict(list)
    for each in segmentations:
        drawn_on[each.series or _only_series(images, each.path.parent)].append(each)
    cases = []
    for uid, drawn in drawn_on.items():
        if uid in of_series:
            cases.append(_case(root, uid, of_series[uid], drawn))
        else:
            cases += [_without_scan(root, uid, each) for each in drawn]
    drawn_studies = {each.study for each in segmentations}
    for uid in drawn_on.keys() & of_series.keys():  # a SEG may have a study of its own
        drawn_studies |= {each.study for each in of_series[uid]}
    for study in of_study.keys() - drawn_studies:
        cases.append(_case(root, "", of_study[study], []))
    return list(_told_apart(cases))


def _grouped(objects: list[_Object], by: str) -> dict[str, list[_Object]]:
    groups: dict[str, list[_Object]] = defaultdict(list)
    for each in objects:
        groups[getattr(each, by)].append(each)
    return dict(groups)


def _without_scan(root: Path, uid: str, drawn: _Object) -> DicomCase:
    name = _name(root, drawn.path)
    return DicomCase(
        name, None, drawn.path, "dicom", drawn.patient,
        series_uid=uid, segmentations=(drawn.path,),
    )  # fmt: skip


def _case(root: Path, uid: str, images: list[_Object], drawn: list[_Object]) -> DicomCase:
    slices = tuple(image.path for image in images)
    folder = Path(os.path.commonpath([path.parent for path in slices]))
    segmentations = tuple(each.path for each in drawn)
    mask = segmentations[0] if segmentations else None
    patient = images[0].patient
    return DicomCase(
        _name(root, folder), folder, mask, "dicom", patient,
        series_uid=uid, slices=slices, segmentations=segmentations,
    )  # fmt: skip


def _name(root: Path, path: Path) -> str:
    """The path below the root; the folder of a single case is called by its own name."""
    return root.resolve().name if path == root else path.relative_to(root).as_posix()


def _told_apart(cases: list[DicomCase]) -> Iterator[DicomCase]:
    """The cases; those of one folder are named by their series as well."""
    names = [case.name for case in cases]
    for case in cases:
        shared = names.count(case.name) > 1
        yield replace(case, name=f"{case.name}/{case.series_uid}") if shared else case


def _objects(root: Path) -> tuple[list[_Object], list[_Object]]:
    """The CT images and the SEG objects below a folder, in the order of their paths."""
    from pydicom import dcmread

    images, segmentations = [], []
    for path in sorted(root.rglob("*")):
        if not _is_dicom(path):
            continue
        try:
            header = dcmread(path, specific_tags=_TAGS, stop_before_pixels=True, force=True)
            kind = str(header.get("SOPClassUID", ""))
        except Exception:  # damaged in one of many ways: read_study tells, if it is a slice
            continue
        if kind in CT_CLASSES:
            images.append(_object(path, header, str(header.get("SeriesInstanceUID", ""))))
        elif kind in SEG_CLASSES:
            segmentations.append(_object(path, header, _referenced(header)))
    return images, segmentations


def _object(path: Path, header: Any, series: str) -> _Object:
    study, patient = (str(header.get(tag) or "") for tag in ("StudyInstanceUID", "PatientID"))
    return _Object(path, study, series, patient.strip())


def _referenced(header: Any) -> str:
    """The series that a SEG refers to (PS3.3 C.12.4); empty if it names none, or several."""
    series = header.get("ReferencedSeriesSequence") or ()
    uids = {str(each.get("SeriesInstanceUID", "")) for each in series}
    return uids.pop() if len(uids) == 1 else ""


def _only_series(images: list[_Object], folder: Path) -> str:
    """The CT series in a folder; empty if there is none, or several."""
    uids = {image.series for image in images if image.path.parent == folder}
    return uids.pop() if len(uids) == 1 else ""


def _is_dicom(path: Path) -> bool:
    """Whether it is a DICOM file, by its ending or, as archives often leave that out, by the
    preamble (PS3.10, 7.1). A DICOMDIR lists files of other folders and belongs to no case."""
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
