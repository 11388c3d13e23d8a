"""Masks with several labels: only those that are hemorrhage count, in each kind of data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from samihs_runtime.errors import DataError, UsageError
from samihs_training.cli import main
from samihs_training.config import recipe_from
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.labels import parsed
from samihs_training.data.cases.reading import read_case
from samihs_training.data.checking import read_checked
from samihs_training.data.phantom import PhantomOptions, PhantomStudy, generate_study, write_dicom
from samihs_training.data.volume_cache import open_volumes

from .test_data_sets import head, save

EPIDURAL, SUBDURAL, BRAIN = 1, 4, 9


def labelled() -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """A head [columns, rows, slices] with bleeds of two types, and brain around them."""
    hu, mask = head()
    labels = np.zeros_like(mask)
    labels[4:12, 3:12, :] = BRAIN
    labels[5:7, 5:7, 1] = EPIDURAL
    labels[8:11, 8:10, 2] = SUBDURAL
    return hu, labels


def nnunet(root: Path, names: dict[str, Any] | None = None) -> Path:
    hu, labels = labelled()
    save(hu, root / "imagesTr" / "ich_001_0000.nii.gz")
    save(labels, root / "labelsTr" / "ich_001.nii.gz")
    if names is not None:
        (root / "dataset.json").write_text(json.dumps({"labels": names}))
    return root


def marked(root: Path, *labels: str) -> NDArray[np.bool_]:
    """[columns, rows, slices], as :func:`labelled`."""
    (case,) = find_cases(root, labels=labels)
    found = read_checked(case).labels > 0
    return found.transpose(2, 1, 0)


@pytest.mark.parametrize("labels", [("1", "4"), ("edh", "SDH"), ("4", "EDH"), ("bleeds",)])
def test_an_nnunet_data_set(tmp_path: Path, labels: tuple[str, ...]) -> None:
    names = {"background": 0, "EDH": 1, "SDH": 4, "brain": 9, "bleeds": [1, 4]}
    root = nnunet(tmp_path, names)
    (case,) = find_cases(root)
    assert (case.name, case.layout) == ("ich_001", "nnunet")
    np.testing.assert_array_equal(marked(root, *labels), np.isin(labelled()[1], (1, 4)))


def test_names_of_the_first_version_of_nnunet(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"0": "background", "1": "EDH", "4": "SDH"})
    np.testing.assert_array_equal(marked(root, "SDH"), labelled()[1] == SUBDURAL)


def test_numbers_need_no_names(tmp_path: Path) -> None:
    hu, labels = labelled()
    save(hu, tmp_path / "pairs" / "x.nii.gz")
    save(labels, tmp_path / "pairs" / "x_mask.nii.gz")
    np.testing.assert_array_equal(marked(tmp_path / "pairs", "1"), labels == EPIDURAL)
    np.testing.assert_array_equal(marked(nnunet(tmp_path / "n"), "1"), labels == EPIDURAL)


def test_labels_that_cannot_be_meant(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "EDH": 1})
    with pytest.raises(DataError, match=r"labels 4, 9 beside 0 and 1.*--labels 1,2"):
        marked(root)
    for wrong in ("IPH", "0", "-1", "1.5", "background", "4"):
        with pytest.raises(UsageError, match=r"label '.*': expected one of EDH, or of their"):
            find_cases(root, labels=(wrong,))
    (root / "dataset.json").write_text('{"labels": ["EDH"]}')
    with pytest.raises(DataError, match=r"dataset\.json: no labels as nnU-Net writes them"):
        find_cases(root, labels=("1",))
    (tmp_path / "p" / "images").mkdir(parents=True)
    (tmp_path / "p" / "pictures.toml").write_text("")
    (tmp_path / "p" / "images" / "1_1.png").write_bytes(b"")
    with pytest.raises(UsageError, match="anything not black is hemorrhage"):
        find_cases(tmp_path / "p", labels=("1",))
    with pytest.raises(UsageError, match="expected names or numbers"):
        parsed("1,,2")


def test_a_label_that_no_mask_has_is_refused(study: PhantomStudy, tmp_path: Path) -> None:
    """It may be mistyped, and the bleeds that were meant would be learned as background."""
    hu, labels = labelled()
    for name, kept in (("a", labels), ("b", np.where(labels == SUBDURAL, 0, labels))):
        save(hu, tmp_path / "nifti" / f"{name}.nii.gz")
        save(kept.astype(np.uint8), tmp_path / "nifti" / f"{name}_mask.nii.gz")
    with_segments(study, tmp_path / "dicom" / "a", "Brain", "EDH")
    with_segments(study_of(6), tmp_path / "dicom" / "b", "Brain", "SDH")
    for kind, right, wrong, named in (
        ("nifti", "1,4", "1,7", "7"),
        ("dicom", "edh,SDH", "EDH,SHD", "SHD"),
    ):
        root = tmp_path / kind
        for command in (["check-data"], ["make-folds", "--folds", "2"]):
            out = [str(tmp_path / f"{kind}.json")] if command[0] == "make-folds" else []
            asked = [*command, str(root), *out, "--labels"]
            failed = CliRunner().invoke(main, [*asked, wrong])
            assert failed.exit_code == 2, failed.output
            assert f"labels {named}: in none of the masks" in failed.stderr
            assert CliRunner().invoke(main, [*asked, right]).exit_code == 0
        with pytest.raises(UsageError, match=f"labels {named}: in none"):
            open_volumes(tmp_path / "cache", find_cases(root, labels=parsed(wrong)))
        open_volumes(tmp_path / "cache", find_cases(root, labels=parsed(right)))


def test_a_scan_or_mask_that_is_missing_is_named(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "labelsTr" / "ich_001.nii.gz").rename(root / "labelsTr" / "ich_002.nii.gz")
    first, second = find_cases(root)
    with pytest.raises(DataError, match=r"expected labelsTr/ich_001\.nii\.gz, all 0"):
        read_case(first)
    with pytest.raises(DataError, match=r"expected imagesTr/ich_002_0000\.nii\.gz$"):
        read_case(second)


def test_other_labels_are_another_cache(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "data")
    volumes = [
        open_volumes(tmp_path / "cache", find_cases(root, labels=each))[0].volume_ml
        for each in (("1",), ("4",), ("1", "4"))
    ]
    assert volumes[0] + volumes[1] == pytest.approx(volumes[2])
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_on_the_command_line_and_in_a_recipe(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "EDH": 1, "SDH": 4})
    failed = CliRunner().invoke(main, ["check-data", str(root)])
    assert failed.exit_code == 2
    done = CliRunner().invoke(main, ["check-data", str(root), "--labels", "EDH, sdh"])
    assert (done.exit_code, "1 cases" in done.output) == (0, True), done.output
    given = {
        "base_checkpoint": "b",
        "adapt": {"steps": 1, "learning_rate": 1e-3},
        "data": {"root": "d", "labels": [1, "SDH"]},
    }
    recipe = recipe_from(given)
    assert recipe.data is not None
    assert recipe.data.labels == ("1", "SDH")
    with pytest.raises(UsageError, match="labels = 1: expected a list"):
        recipe_from(given | {"data": {"root": "d", "labels": 1}})


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return study_of(5)


def study_of(patient: int) -> PhantomStudy:
    options = PhantomOptions(matrix=64, slices=4, slice_thickness_mm=8, volume_range_ml=(30, 40))
    return generate_study(patient, options)


def with_segments(study: PhantomStudy, root: Path, *names: str, coded: bool = False) -> Path:
    """A study whose SEG has a segment of each name: the first half of the bleed, the second, ..."""
    write_dicom(study, root, segmentation=True)
    images = [pydicom.dcmread(path) for path in sorted(root.glob("IM*.dcm"))]
    pixels = np.stack([pixels_of(study, number) for number in range(len(names))], axis=-1)
    lesion, brain = Code("50960005", "SCT", "Hemorrhage"), Code("12738006", "SCT", "Brain")
    descriptions = [
        hd.seg.SegmentDescription(
            number, name, Code("49755003", "SCT", "Morphologically abnormal structure"),
            lesion if coded and name != "Brain" else brain, "MANUAL",
        )
        for number, name in enumerate(names, 1)
    ]  # fmt: skip
    made = hd.seg.Segmentation(
        images, pixels.astype(np.uint8), "BINARY", descriptions,
        generate_uid(), 100, generate_uid(), 1, "m", "m", "1", "1",
    )  # fmt: skip
    made.save_as(root / "truth_seg.dcm")
    return root


def pixels_of(study: PhantomStudy, number: int) -> NDArray[np.bool_]:
    """The part of all blood in every third column, from column ``number`` on."""
    part = study.bleeds > 0
    columns = np.arange(part.shape[-1]) % 3 == number
    return np.asarray(part & columns)


@pytest.mark.parametrize("labels", [("edh", "SDH"), ("2", "3"), ("EDH", "3", "another patient's")])
def test_segments_by_name_or_number(
    study: PhantomStudy, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    root = with_segments(study, tmp_path, "Brain", "EDH", "SDH")
    (case,) = find_cases(root, labels=labels)
    wanted = pixels_of(study, 1) | pixels_of(study, 2)
    np.testing.assert_array_equal(read_case(case).labels, wanted)


def test_segments_that_the_object_itself_says_are_hemorrhage(
    study: PhantomStudy, tmp_path: Path
) -> None:
    (case,) = find_cases(with_segments(study, tmp_path, "Brain", "EDH", "SDH", coded=True))
    wanted = pixels_of(study, 1) | pixels_of(study, 2)
    np.testing.assert_array_equal(read_case(case).labels, wanted)


def test_segments_that_nobody_says_are_hemorrhage(study: PhantomStudy, tmp_path: Path) -> None:
    (alone,) = find_cases(with_segments(study, tmp_path / "one", "Segment_1"))
    np.testing.assert_array_equal(read_case(alone).labels, pixels_of(study, 0))
    (case,) = find_cases(with_segments(study, tmp_path / "two", "Segment_1", "Segment_2"))
    with pytest.raises(DataError, match=r"'Segment_1', 'Segment_2', none .* --labels 'Segment_1'"):
        read_case(case)
