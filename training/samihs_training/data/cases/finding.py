"""The cases that a folder holds, in any of the layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from samihs_runtime.errors import DataError, UsageError
from samihs_training.data.cases.case import (
    LAYOUTS,
    NIFTI,
    PAIRED_FOLDERS,
    SCAN_ENDS,
    CaseFiles,
    Layout,
    nifti_stem,
)
from samihs_training.data.cases.dicom_cases import find_dicom_cases
from samihs_training.data.cases.labels import Labels, names_of_nnunet, numbered
from samihs_training.data.cases.pictures import find_picture_cases


def find_cases(root: Path, layout: Layout | None = None, labels: Labels = ()) -> list[CaseFiles]:
    """All cases below ``root``, by name; the layout is recognised if it is not given.

    Args:
        root: folder of the data set.
        layout: one of :data:`LAYOUTS`.
        labels: those of the masks that are hemorrhage: numbers, or names where the data set has
            them (``labels.py``); none if masks mark hemorrhage only.

    Raises:
        DataError: ``root`` is not a folder, holds no case of that (or any) layout, or two cases of
            the same name, which folds and caches could not tell apart.
        UsageError: masks of that layout have no such labels.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the root of a data set")
    for each in (layout,) if layout else LAYOUTS:
        cases = _FINDERS[each](root, each)
        if cases:
            return _by_name(_labelled(cases, root, each, labels))
    wanted = layout or f"{', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}"
    raise DataError(f"{root}: no case of layout {wanted}; docs/data.md shows the layouts")


def _labelled(
    cases: list[CaseFiles], root: Path, layout: Layout, labels: Labels
) -> list[CaseFiles]:
    """The cases with the labels of their masks that are hemorrhage, if any were named."""
    if not labels:
        return cases
    if layout == "pictures":
        raise UsageError(
            "labels: used only with NIfTI and DICOM; in the masks of pictures, anything not black "
            "is hemorrhage"
        )
    if layout != "dicom":  # a SEG names its segments itself
        labels = numbered(labels, names_of_nnunet(root) if layout == "nnunet" else {})
    return [replace(case, labels=labels) for case in cases]


def _by_name(cases: list[CaseFiles]) -> list[CaseFiles]:
    """The cases in the order of their names, which must differ."""
    first: dict[str, CaseFiles] = {}
    for case in sorted(cases, key=lambda case: case.name):
        other = first.setdefault(case.name, case)
        if other is not case:
            raise DataError(
                f"{case.image or case.mask}: {other.image or other.mask} is a case "
                f"{case.name!r} as well; rename one of them"
            )
    return list(first.values())


def _paired_folders(root: Path, layout: Layout) -> list[CaseFiles]:
    scans, masks = (_niftis(root / name) for name in PAIRED_FOLDERS[layout])
    if not (root / PAIRED_FOLDERS[layout][0]).is_dir():
        return []
    end = SCAN_ENDS.get(layout, "")
    images = {name.removesuffix(end): path for name, path in scans.items() if name.endswith(end)}
    names = images.keys() | masks.keys()
    return [CaseFiles(name, images.get(name), masks.get(name), layout) for name in names]


def _pairs(root: Path, layout: Layout) -> list[CaseFiles]:
    found = _niftis(root, "**/*")
    cases = []
    for name, path in found.items():
        folder, slash, stem = name.rpartition("/")
        if stem.startswith("mask_"):
            continue  # mask_TYPE: one type of bleeding, as samihs-phantom writes it
        if stem == "mask" or stem.endswith("_mask"):
            scan = f"{folder}{slash}image" if stem == "mask" else name.removesuffix("_mask")
            if scan not in found:
                cases.append(CaseFiles(name, None, path, layout))
        elif stem == "image":
            mask = found.get(f"{folder}{slash}mask")
            cases.append(CaseFiles(folder or name, path, mask, layout))
        else:
            cases.append(CaseFiles(name, path, found.get(f"{name}_mask"), layout))
    # A folder of NIfTI files without a single mask is not a data set.
    return cases if any(case.mask for case in cases) else []


def _dicom(root: Path, layout: Layout) -> list[CaseFiles]:
    return find_dicom_cases(root)


def _pictures(root: Path, layout: Layout) -> list[CaseFiles]:
    return find_picture_cases(root)


_FINDERS: dict[Layout, Callable[[Path, Layout], list[CaseFiles]]] = {
    "bcihm": _paired_folders,
    "instance": _paired_folders,
    "nnunet": _paired_folders,
    "pairs": _pairs,
    "dicom": _dicom,
    "pictures": _pictures,
}


def _niftis(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """Path below the folder, without ending -> path; hidden files are ignored."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if not path.name.lower().endswith(NIFTI) or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_name(nifti_stem(path)).as_posix()
        if name in found:
            raise DataError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    return found
