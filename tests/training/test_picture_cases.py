"""8-bit pictures of slices: whose they are, what they mean in HU, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from samihs_runtime.errors import DataError
from samihs_training.cli import main
from samihs_training.data.cases.case import Layout
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.reading import read_case
from samihs_training.data.checking import check_cases, read_checked
from samihs_training.data.patients import PatientSlices
from samihs_training.data.sources import Drawing
from samihs_training.data.volume_cache import open_volumes

SCALE = "level = 40\nwidth = 120\npixel_mm = 0.5\nslice_mm = 5\n"


def head(blood: int = 200) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """24 x 20 grey values and a mask of 0 and 255: bone about brain, a bleed of 4 x 5 pixels."""
    grey = np.zeros((24, 20), np.uint8)
    grey[2:22, 2:18], grey[4:20, 4:16] = 255, 110
    mask = np.zeros_like(grey)
    mask[8:12, 6:11] = 255
    grey[mask > 0] = blood
    return grey, mask


def save(picture: NDArray[np.uint8], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def archive(root: Path, *names: str, scale: str = SCALE) -> Path:
    for name in names:
        grey, mask = head()
        save(grey, root / "images" / f"{name}.png")
        save(mask, root / "masks" / f"{name}.png")
    (root / "pictures.toml").write_text(scale)
    return root


def test_values_are_hu_and_slices_lie_in_order_of_their_numbers(tmp_path: Path) -> None:
    root = archive(tmp_path, "049_9", "049_10", "050_1")
    grey, _ = head(blood=180)
    save(grey, root / "images" / "049_10.png")
    first, second = find_cases(root)
    assert (first.name, second.name, first.layout) == ("049", "050", "pictures")
    volume = read_case(first)
    assert volume.hu.shape == (2, 24, 20)
    assert volume.hu[0, 0, 0] == -20
    assert volume.hu[0, 3, 3] == 100
    assert volume.hu[:, 9, 8] == pytest.approx([200 * 120 / 255 - 20, 180 * 120 / 255 - 20])
    assert volume.labels.sum() == 2 * 20
    assert volume.volume_ml == pytest.approx(2 * 20 * 0.25 * 5 / 1000)
    assert not any(report.faults for report in check_cases([first, second]))


def test_folders_are_patients_and_bare_numbers_stay_together(tmp_path: Path) -> None:
    assert [case.name for case in find_cases(archive(tmp_path / "a", "7/1", "7/2", "8/1"))] == [
        "7",
        "8",
    ]
    names = ("P1/slice_1", "P1/slice_2", "P2/IMG-1", "train/P3_1")
    cases = find_cases(archive(tmp_path / "c", *names))
    assert [case.name for case in cases] == ["P1", "P2", "P3"]
    (only,) = find_cases(archive(tmp_path / "b", "10187", "10188", "slice_3"))
    assert only.name == "all"
    assert len(read_case(only).hu) == 3


def test_masks_may_be_jpeg_of_ones_or_in_colour(tmp_path: Path) -> None:
    root = archive(tmp_path, "1_1", "2_1", "3_1", "4_1")
    _, mask = head()
    (root / "masks" / "1_1.png").unlink()
    Image.fromarray(mask).save(root / "masks" / "1_1.jpg", quality=70)
    save(mask // 255, root / "masks" / "2_1.png")
    marked = (mask > 0)[..., None] * np.array([210, 80, 0], np.uint8)
    save(marked, root / "masks" / "3_1.png")
    Image.fromarray(mask // 255 * 3).convert("P").save(root / "masks" / "4_1.png")
    for case in find_cases(root):
        np.testing.assert_array_equal(read_case(case).labels[0], mask > 0)


def test_every_type_of_bleeding_in_a_mask_is_hemorrhage(tmp_path: Path) -> None:
    """Masks may number the types, or draw each in a colour of its own, some of them dark."""
    root = archive(tmp_path, "1_1", "2_1")
    _, mask = head()
    numbered = mask // 255
    numbered[8:10] *= 5
    save(numbered, root / "masks" / "1_1.png")
    coloured = np.zeros((*mask.shape, 3), np.uint8)
    coloured[mask > 0] = 255, 0, 0
    coloured[8:10][mask[8:10] > 0] = 0, 0, 100
    save(coloured, root / "masks" / "2_1.png")
    for case in find_cases(root):
        np.testing.assert_array_equal(read_case(case).labels[0], mask > 0)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("level = 40\n", "expected the numbers level, width, pixel_mm, slice_mm"),
        (SCALE + "depth = 8\n", "expected the numbers"),
        (SCALE.replace("120", "0"), "above 0"),
        (SCALE.replace("120", "nan"), "above 0"),
        (SCALE.replace("120", '"wide"'), "expected the numbers"),
        ("level", "expected the numbers"),
    ],
)
def test_what_pictures_mean_must_be_said(tmp_path: Path, scale: str, said: str) -> None:
    (case,) = find_cases(archive(tmp_path, "1_1", scale=scale))
    with pytest.raises(DataError, match=said) as caught:
        read_case(case)
    assert "pictures.toml" in str(caught.value)


@pytest.mark.parametrize("layout", [None, "pictures"])
def test_without_a_scale_its_absence_is_told(layout: Layout | None, tmp_path: Path) -> None:
    (archive(tmp_path, "1_1") / "pictures.toml").unlink()
    with pytest.raises(DataError, match=r"pictures\.toml: missing; .* what their grey values mean"):
        find_cases(tmp_path, layout)


def test_other_pictures_are_no_data_set(tmp_path: Path) -> None:
    save(head()[0], tmp_path / "images" / "1_1.png")
    with pytest.raises(DataError, match="dicom or pictures"):
        find_cases(tmp_path)


def test_faults_name_their_file(tmp_path: Path) -> None:
    root = archive(tmp_path, "1_1", "2_1", "3_1", "3_2", "4_1", "5_1", "6_1", "7_1")
    (root / "masks" / "1_1.png").unlink()
    (root / "images" / "2_1.png").unlink()
    save(head()[0][:-1], root / "images" / "3_2.png")
    save(np.dstack([head()[0], 0 * head()[0], head()[0]]), root / "images" / "4_1.png")
    Image.fromarray(head()[0].astype(np.uint16) * 100).save(root / "images" / "5_1.png")
    (root / "images" / "6_1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    save(np.full((24, 20), 7, np.uint8), root / "images" / "7_1.png")
    faults = {report.name: report.faults for report in check_cases(find_cases(root))}
    for name, words in {
        "1": "images/1_1.png: no mask",
        "2": "masks/2_1.png: no slice",
        "3": "images/3_2.png: 20 x 23 pixels, expected 20 x 24",
        "4": "images/4_1.png: a coloured picture",
        "5": "images/5_1.png: mode I;16",
        "6": "images/6_1.png: not readable",
        "7": "7: one grey value everywhere",
    }.items():
        assert words in faults[name][0]
    save(head()[0], root / "images" / "1_1.bmp.png")
    save(head()[0], root / "images" / "2_1.png")
    Image.fromarray(head()[0]).save(root / "images" / "2_1.jpg")
    with pytest.raises(DataError, match="has the same name"):
        find_cases(root)


def test_a_changed_picture_or_scale_is_read_again(tmp_path: Path) -> None:
    root = archive(tmp_path / "data", "1_1")
    cases = find_cases(root)
    (case,) = open_volumes(tmp_path / "cache", cases)
    assert case.hu[0, 3, 3] == 100
    (root / "pictures.toml").write_text(SCALE.replace("120", "100"))
    (case,) = open_volumes(tmp_path / "cache", cases)
    assert case.hu[0, 3, 3] == 90


def test_no_prompt_falls_on_the_air_about_a_windowed_head(tmp_path: Path) -> None:
    (case,) = open_volumes(tmp_path / "cache", find_cases(archive(tmp_path / "data", "1_1")))
    source = PatientSlices([case], size=32)
    drawing = Drawing("bleeds", prompts=40, negatives=1.0, vary=False)
    drawn = source.draw(0, drawing, np.random.default_rng(0))
    for prompt, _ in drawn.asked:
        x, y = prompt.points[0]
        assert drawn.hu[int(y), int(x)] > -15


def test_check_data_lists_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check-data", str(archive(tmp_path, "1_1", "1_2"))])
    assert result.exit_code == 0, result.output
    assert "1 cases, 2 slices" in result.output
    (case,) = find_cases(tmp_path)
    assert read_checked(case).hu.shape == (2, 24, 20)
