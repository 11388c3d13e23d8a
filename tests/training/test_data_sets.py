"""Readers of the published layouts, on look-alikes made here; every fault names its file."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from samihs_runtime.errors import DataError
from samihs_training.cli import main
from samihs_training.data.cases.case import CaseFiles
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.reading import read_case
from samihs_training.data.checking import check_cases, read_checked
from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomStudy,
    generate_study,
    write_dicom,
    write_nifti,
)
from samihs_training.data.phantom.scanner import PAD_HU

AFFINE = np.diag([-0.5, -0.4, 5.0, 1.0])  # columns to the left, rows to the back: DICOM's axial
SHAPE = (20, 16, 4)  # columns, rows, slices


def head(seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and mask as NIfTI has them: air, bone, and a bleed of 3 x 2 x 2 voxels."""
    hu = np.random.default_rng(seed).integers(0, 80, SHAPE).astype(np.int16)
    hu[:2], hu[2:4] = -1000, 900
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:9, 5:7, 1:3] = 1
    return hu, mask


def save(array: NDArray[np.generic], path: Path, affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def bcihm(root: Path, count: int = 2) -> Path:
    for case in range(count):
        hu, mask = head(case)
        save(hu, root / "ct_scans" / f"{49 + case:03}.nii")
        save(mask, root / "masks" / f"{49 + case:03}.nii")
    return root


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return generate_study(
        5,
        PhantomOptions(
            matrix=64,
            slices=6,
            slice_thickness_mm=8,
            tilt_deg=15,
            bleeds=(BleedType.INTRAPARENCHYMAL,),
            volume_range_ml=(30, 40),
        ),
    )


def test_bcihm(tmp_path: Path) -> None:
    first, second = find_cases(bcihm(tmp_path))
    assert (first.name, second.name, first.layout) == ("049", "050", "bcihm")
    volume = read_case(first)
    hu, mask = head(0)
    assert volume.hu.shape == (4, 16, 20)
    assert volume.hu[2, 5, 7] == hu[7, 5, 2]  # [slice, row, column] of a NIfTI in DICOM's order
    np.testing.assert_array_equal(volume.labels, mask.transpose(2, 1, 0))
    assert volume.spacing_mm == pytest.approx((0.4, 0.5))
    assert volume.volume_ml == pytest.approx(12 * 0.5 * 0.4 * 5 / 1000)


def test_instance_and_pairs(tmp_path: Path) -> None:
    hu, mask = head()
    save(hu, tmp_path / "a" / "data" / "001.nii.gz")
    save(mask, tmp_path / "a" / "label" / "001.nii.gz")
    save(hu, tmp_path / "b" / "sub" / "x.nii.gz")
    save(mask, tmp_path / "b" / "sub" / "x_mask.nii")
    (instance,) = find_cases(tmp_path / "a")
    (pair,) = find_cases(tmp_path / "b")
    assert (instance.layout, instance.name) == ("instance", "001")
    assert (pair.layout, pair.name) == ("pairs", "sub/x")
    np.testing.assert_array_equal(read_case(instance).labels, read_case(pair).labels)


def test_any_orientation_is_read_as_axial(tmp_path: Path) -> None:
    hu, mask = head()
    flip = np.diag([0.5, 0.4, 5.0, 1.0])
    flip[:2, 3] = -0.5 * (SHAPE[0] - 1), -0.4 * (SHAPE[1] - 1)
    image = save(hu[::-1, ::-1], tmp_path / "x.nii", flip)
    labels = save(mask[::-1, ::-1], tmp_path / "x_mask.nii", flip)
    volume = read_case(CaseFiles("x", image, labels, "pairs"))
    np.testing.assert_array_equal(volume.hu, hu.transpose(2, 1, 0))


def test_phantoms_as_nifti_and_as_dicom_agree(study: PhantomStudy, tmp_path: Path) -> None:
    """A tilted gantry: the extent is the distance of the planes, not of their corners."""
    write_nifti(study, tmp_path / "nifti" / "case")
    write_dicom(study, tmp_path / "dicom" / "case", segmentation=True)
    (from_nifti,) = find_cases(tmp_path / "nifti")
    (from_dicom,) = find_cases(tmp_path / "dicom")
    assert (from_nifti.layout, from_dicom.layout) == ("pairs", "dicom")
    assert from_nifti.name == from_dicom.name == "case"
    air = np.where(study.hu == PAD_HU, -1000, study.hu)  # NIfTI cannot say what is padding
    for case in (from_nifti, from_dicom):
        volume = read_checked(case)
        np.testing.assert_array_equal(np.where(volume.hu == PAD_HU, -1000, volume.hu), air)
        np.testing.assert_array_equal(volume.labels, study.bleeds > 0)
        assert volume.volume_ml == pytest.approx(study.volume_ml(), rel=1e-4)


def test_what_other_programs_write_is_read_alike(tmp_path: Path) -> None:
    """Endings in upper case, 8-bit and floating-point masks, a fourth axis of length 1."""
    hu, mask = head()
    save(hu, tmp_path / "plain.nii")
    save(mask, tmp_path / "plain_mask.nii")
    save(hu[..., None], tmp_path / "fourth.nii")
    save(mask[..., None].astype(np.float64), tmp_path / "fourth_mask.nii")
    for name, array in (("upper", hu), ("upper_mask", mask * 255)):
        save(array, tmp_path / f"{name}.nii").rename(tmp_path / f"{name}.NII")
    cases = find_cases(tmp_path)
    assert [case.name for case in cases] == ["fourth", "plain", "upper"]
    for case in cases:
        volume = read_checked(case)
        np.testing.assert_array_equal(volume.hu, hu.transpose(2, 1, 0))
        np.testing.assert_array_equal(volume.labels, mask.transpose(2, 1, 0))


def test_one_of_a_pair_is_named_with_the_file_that_it_lacks(tmp_path: Path) -> None:
    hu, mask = head()
    save(hu, tmp_path / "a.nii.gz")
    save(mask, tmp_path / "b_mask.nii.gz")
    save(hu, tmp_path / "c" / "image.nii.gz")
    save(mask, tmp_path / "d" / "mask.nii.gz")
    faults = [report.faults[0] for report in check_cases(find_cases(tmp_path))]
    wanted = ["a_mask", "b", "mask", "image"]
    for fault, name in zip(faults, wanted, strict=True):
        assert f": expected {name}.nii.gz beside it" in fault


@pytest.mark.parametrize("ending", [".DCM", ""])
def test_dicom_files_need_no_ending(study: PhantomStudy, tmp_path: Path, ending: str) -> None:
    write_dicom(study, tmp_path / "case", segmentation=True)
    for path in (tmp_path / "case").iterdir():
        path.rename(path.with_suffix(ending))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (case,) = find_cases(tmp_path)
    assert (case.name, case.layout) == ("case", "dicom")
    np.testing.assert_array_equal(read_case(case).labels, study.bleeds > 0)


def test_a_folder_of_dicom_files_is_a_case_by_itself(
    study: PhantomStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(study, tmp_path / "case", segmentation=True)
    monkeypatch.chdir(tmp_path / "case")
    assert [case.name for case in find_cases(Path())] == ["case"]


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    hu, mask = head()
    for name in ("a/image.nii.gz", "a.nii.gz"):
        save(hu, tmp_path / name)
    for name in ("a/mask.nii.gz", "a_mask.nii.gz"):
        save(mask, tmp_path / name)
    with pytest.raises(DataError, match=r"a(/image)?\.nii\.gz: .* is a case 'a' as well; rename"):
        find_cases(tmp_path)


@pytest.mark.parametrize("folder", ["ct_scans", "masks"])
def test_a_scan_that_lies_there_twice_is_refused(tmp_path: Path, folder: str) -> None:
    bcihm(tmp_path)
    hu, _ = head(7)
    save(hu, tmp_path / folder / "049.nii.gz")
    with pytest.raises(DataError, match=r"049\.nii.*: 049\.nii.* has the same name; keep one"):
        find_cases(tmp_path)


@pytest.mark.parametrize("gone", ["DerivationImageSequence", "SourceImageSequence"])
def test_a_segmentation_that_names_no_image_is_named(
    study: PhantomStudy, tmp_path: Path, gone: str
) -> None:
    write_dicom(study, tmp_path / "case", segmentation=True)
    path = tmp_path / "case" / "truth_seg.dcm"
    segmentation = pydicom.dcmread(path)
    frame = segmentation.PerFrameFunctionalGroupsSequence[-1]
    if gone == "SourceImageSequence":
        del frame.DerivationImageSequence[0].SourceImageSequence
    else:
        del frame.DerivationImageSequence
    segmentation.save_as(path)
    with pytest.raises(DataError, match=r"truth_seg\.dcm: a frame names no image"):
        read_case(find_cases(tmp_path)[0])


def test_a_segmentation_of_one_frame_is_read(tmp_path: Path) -> None:
    options = PhantomOptions(
        matrix=64, slices=3, slice_thickness_mm=8, bleeds=(BleedType.INTRAPARENCHYMAL,)
    )
    study = generate_study(5, options)
    bleeds = np.zeros_like(study.bleeds)
    bleeds[1, 20:25, 30:32] = 1
    one = replace(study, bleeds=bleeds)
    write_dicom(one, tmp_path / "case", segmentation=True)
    segmentation = pydicom.dcmread(tmp_path / "case" / "truth_seg.dcm")
    assert segmentation.pixel_array.ndim == 2
    (case,) = find_cases(tmp_path)
    np.testing.assert_array_equal(read_case(case).labels, bleeds > 0)


def test_dicom_faults_name_the_case(study: PhantomStudy, tmp_path: Path) -> None:
    write_dicom(study, tmp_path / "case")
    with pytest.raises(DataError, match="case: a scan without a mask: expected a DICOM SEG that"):
        read_case(find_cases(tmp_path)[0])
    write_dicom(study, tmp_path / "case", segmentation=True)
    shutil.copy(tmp_path / "case" / "truth_seg.dcm", tmp_path / "case" / "older.dcm")
    with pytest.raises(DataError, match=r"case: 2 DICOM SEG .* \(older\.dcm, truth_seg\.dcm\)"):
        read_case(find_cases(tmp_path)[0])
    (tmp_path / "case" / "older.dcm").unlink()
    bleeding = int(study.bleeds.any((1, 2)).argmax())
    (tmp_path / "case" / f"IM{bleeding + 1:04}.dcm").unlink()
    with pytest.raises(DataError, match=r"truth_seg\.dcm: refers to an image"):
        read_case(find_cases(tmp_path)[0])


def _spoil(root: Path, fault: str) -> str:
    """Damage case 049; returns the file that must be named."""
    hu, mask = head(0)
    image, labels = root / "ct_scans" / "049.nii", root / "masks" / "049.nii"
    match fault:
        case "shape":
            save(mask[:-1], labels)
        case "affine":
            save(mask, labels, np.diag([-0.5, -0.4, 4.0, 1.0]))
        case "outside":
            save(np.roll(mask, -6, axis=0), labels)
        case "label":
            save(mask * 2, labels)
        case "scan":
            image.unlink()
        case "nan":
            broken = hu.astype(np.float32)
            broken[0, 0, 0] = np.nan
            save(broken, image)
        case "flat" | "nowhere":
            odd = nib.load(image)
            odd.header["sform_code"], odd.header["qform_code"] = 1, 0
            odd.header["srow_z"] = [0, 0, 0 if fault == "flat" else np.nan, 0]
            image.write_bytes(odd.header.binaryblock + image.read_bytes()[348:])
        case "colour":
            voxels = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
            save(voxels, labels)
        case "window":
            save(np.clip(hu, 0, 255).astype(np.uint8), image)
        case "mask":
            labels.unlink()
        case "cut":
            image.write_bytes(image.read_bytes()[:1000])
        case "text":
            image.write_text("no image")
    of_mask = ("shape", "affine", "label", "scan", "colour", "outside")
    return str(labels if fault in of_mask else image)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("shape", "shape (19, 16, 4), but its scan has (20, 16, 4)"),
        ("affine", "its affine puts voxels 3.00 mm from"),
        ("label", "labels 2 beside 0 and 1"),
        ("outside", "67% of it lies in air; expected hemorrhage in the head"),
        ("scan", "a mask without a scan: expected ct_scans/049.nii"),
        ("nan", "1 values are NaN or infinite"),
        ("window", "values of 0 to 255 are not HU"),
        ("mask", "a scan without a mask: expected masks/049.nii, all 0 if nothing bleeds"),
        ("flat", "gives voxels no volume"),
        ("nowhere", "gives voxels no volume"),
        ("colour", "its voxels are colours"),
        ("cut", "not readable as NIfTI"),
        ("text", "not readable as NIfTI"),
    ],
)
def test_check_data_names_file_and_fault(tmp_path: Path, fault: str, words: str) -> None:
    bcihm(tmp_path)
    named = _spoil(tmp_path, fault)
    bad, good = check_cases(find_cases(tmp_path))
    assert (bad.name, good.faults) == ("049", ())
    (said,) = bad.faults
    assert said.startswith(named)
    assert words in said
    with pytest.raises(DataError):
        read_checked(find_cases(tmp_path)[0])
    done = CliRunner().invoke(main, ["check-data", str(tmp_path)])
    assert done.exit_code == 2
    assert named in done.stdout
    assert "1 faults in 1 of 2 cases" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _spoil_compressed(scan: Path, fault: str) -> None:
    """Damage a ``.nii.gz``, or the header inside it."""
    packed = bytearray(scan.read_bytes())
    header = bytearray(gzip.decompress(packed))
    match fault:
        case "middle" | "start":
            at = len(packed) // 2 if fault == "middle" else 40
            packed[at : at + 40] = bytes(each ^ 0xFF for each in packed[at : at + 40])
        case "checksum":
            packed[-8] ^= 0xFF
        case "type":
            header[70:72] = (4095).to_bytes(2, "little")
        case "axes":
            header[40:42] = (9).to_bytes(2, "little")
        case "sizes":
            for axis in (42, 44, 46):
                header[axis : axis + 2] = (32_000).to_bytes(2, "little")
    changed = gzip.compress(header) if fault in ("type", "axes", "sizes") else packed
    scan.write_bytes(changed)


@pytest.mark.parametrize("fault", ["middle", "start", "checksum", "type", "axes", "sizes"])
def test_a_damaged_file_is_a_fault_of_its_case(tmp_path: Path, fault: str) -> None:
    """Python's gzip compares the checksum only at the end, and nibabel reads no further than the
    last voxel; a header's sizes may ask for terabytes."""
    for name in ("a", "b"):
        noise = np.random.default_rng(1).integers(0, 80, (64, 64, 8)).astype(np.int16)
        noise[:8], noise[8:12] = -1000, 900  # scans that take more than one block of gzip's
        save(noise, tmp_path / f"{name}.nii.gz")
        save(np.zeros((64, 64, 8), np.uint8), tmp_path / f"{name}_mask.nii.gz")
    _spoil_compressed(tmp_path / "a.nii.gz", fault)
    bad, good = check_cases(find_cases(tmp_path))
    assert good.faults == ()
    (said,) = bad.faults
    assert said.startswith(f"{tmp_path / 'a.nii.gz'}: not readable as NIfTI (")


def test_check_data_lists_cases(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check-data", str(bcihm(tmp_path))])
    assert done.exit_code == 0, done.output
    assert "2 cases, 8 slices, 0.0 mL" in done.output
    assert "049" in done.output


def test_check_data_shows_names_as_they_are(tmp_path: Path) -> None:
    hu, mask = head()
    for name in ("[bold]x", "Müller"):
        save(hu, tmp_path / f"{name}.nii")
        save(mask, tmp_path / f"{name}_mask.nii")
    done = CliRunner().invoke(main, ["check-data", str(tmp_path)])
    assert "[bold]x" in done.output
    assert "Müller" in done.output


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_cases(tmp_path / "none")
    with pytest.raises(
        DataError, match="no case of layout bcihm, instance, nnunet, pairs, dicom or pictures"
    ):
        find_cases(tmp_path)
