"""write_outputs as a whole: names, atomicity, overwriting, planted identity, light imports."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from samihs_runtime.errors import OutputError
from samihs_runtime.folder_lock import held_alone
from samihs_runtime.formats import NAMES
from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.writers import WriteOptions, write_outputs
from samihs_runtime.writers.files import check_destination, staged_folder
from tests.runtime.series_factory import PLANTED, make_lesion, make_report, make_series, not_found

ALL = tuple(NAMES)


def write(
    series: CTSeries, lesion: Lesion, out: Path, formats: tuple[str, ...] = ALL, **options: Any
) -> dict[str, Path]:
    return write_outputs(
        series,
        lesion,
        measure(series, lesion),
        make_report(),
        out,
        formats,
        WriteOptions(**options),
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_format_is_written_and_told(tmp_path: Path) -> None:
    series = make_series()
    written = write(series, make_lesion(series), tmp_path / "a" / "out")
    assert set(written) == names(tmp_path / "a" / "out") == {
        "lesion-seg.dcm", "overlay.png", "contact-sheet.png", "report.json", "lesion.nii.gz",
        "contact-sheet.dcm", "lesion.stl",
    }  # fmt: skip
    assert all(path.is_file() and path.stat().st_size > 200 for path in written.values())
    assert names(tmp_path) == {"a"}
    assert names(tmp_path / "a") == {"out"}


def test_a_lesion_on_one_slice_needs_no_contact_sheet(tmp_path: Path) -> None:
    series = make_series()
    assert set(write(series, make_lesion(series, (2,)), tmp_path / "o", ("overlay",))) == {
        "overlay.png"
    }


def test_nothing_found_is_written_too(tmp_path: Path) -> None:
    written = write(make_series(), not_found(), tmp_path / "o")
    assert set(written) == {
        "lesion-seg.dcm", "overlay.png", "report.json", "lesion.nii.gz", "contact-sheet.dcm",
        "lesion.stl",
    }  # fmt: skip
    with Image.open(written["overlay.png"]) as picture:
        assert picture.size[0] > 700


@pytest.mark.parametrize("deidentify", [False, True])
@pytest.mark.parametrize("lesion_of", [make_lesion, lambda series: not_found()])
def test_no_planted_identity_outside_dicom_objects(
    lesion_of: Any, deidentify: bool, tmp_path: Path
) -> None:
    """Every byte of every other file is searched, unpacked where packed, in any case; of the DICOM
    objects as well where they were to be de-identified."""
    series = make_series()  # free text is the reader's to scrub: test_identity_command.py
    written = write(series, lesion_of(series), tmp_path / "out", deidentify=deidentify)
    secrets = [series.series_uid, *(source.sop_instance_uid for source in series.sources)]
    for value in PLANTED.values():
        secrets += [value] if isinstance(value, str) else value
    secrets += ["zzyzxova", "quirine", "ottoline", "grumblethwaite", "ignatius"]
    searched = 0
    for name, path in written.items():
        if name.endswith(".dcm") and not deidentify:
            assert b"Zzyzxova" in path.read_bytes()  # a PACS needs it; and the search can find it
            continue
        content = path.read_bytes()
        content += gzip.decompress(content) if name.endswith(".gz") else b""
        if name.endswith(".png"):
            with Image.open(path) as picture:
                content += str(picture.info).encode()
        for secret in secrets:
            assert secret.lower().encode() not in content.lower(), (name, secret)
            assert secret.lower() not in name.lower()
        searched += 1
    assert searched >= 3


def test_identify_puts_the_identity_into_the_report_alone(tmp_path: Path) -> None:
    series = make_series()
    written = write(series, make_lesion(series), tmp_path / "out", identify=True)
    assert b"MRN-7781234" in written["report.json"].read_bytes()
    assert b"MRN-7781234" not in gzip.decompress(written["lesion.nii.gz"].read_bytes())


def test_an_existing_result_is_kept_unless_told(tmp_path: Path) -> None:
    series = make_series()
    write(series, make_lesion(series), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = (tmp_path / "out" / "report.json").read_bytes()
    with pytest.raises(OutputError, match=r"already holds .*report\.json.*--overwrite"):
        write(series, not_found(), tmp_path / "out")
    assert (tmp_path / "out" / "report.json").read_bytes() == before
    write(series, not_found(), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "report.json").read_bytes() != before
    # An earlier lesion's contact sheet beside a new "nothing found" would mislead.
    assert "contact-sheet.png" not in names(tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == {"out"}


def test_results_do_not_mix_in_a_folder(tmp_path: Path) -> None:
    """Whichever formats are asked for: two lesions' files side by side would be taken for one's."""
    series = make_series()
    out = tmp_path / "out"
    write(series, make_lesion(series), out, ("seg", "overlay", "json"))
    with pytest.raises(OutputError, match=r"already holds lesion-seg\.dcm, overlay\.png"):
        write(series, make_lesion(series), out, ("nifti",))
    write(series, make_lesion(series), out, ("json",), overwrite=True)
    assert names(out) == {"report.json"}


def test_a_format_that_cannot_hold_the_series_writes_nothing(tmp_path: Path) -> None:
    series = make_series((0, 4, 8, 9.08, 16.08), thickness=4.0)
    with pytest.raises(OutputError, match="NIfTI cannot hold this series"):
        write(series, make_lesion(series), tmp_path / "deep" / "out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("formats", [("seg", "tiff"), ()])
def test_unknown_formats_are_refused(formats: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match="expected some of seg, overlay, json, nifti, capture, stl"
    ):
        write(make_series(), not_found(), tmp_path / "out", formats)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        write(make_series(), not_found(), tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be written"):
        write(make_series(), not_found(), tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "x"


def test_a_failed_exchange_puts_the_old_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a", "b"):
        (out / name).write_text("old")
    from samihs_runtime.writers import files

    real = files.os.replace

    def full_disk(source: Path, target: Path) -> None:
        if Path(target) == out / "b" and Path(source).parent.name == "new":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        stage_files(out, {"a": "new", "b": "new"})
    assert names(out) == {"a", "b"}
    assert {(out / name).read_text() for name in ("a", "b")} == {"old"}
    assert names(tmp_path) == {"out"}


def test_an_interrupted_exchange_puts_the_old_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    from samihs_runtime.writers import files

    real = files.os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(source).parent.name == "new":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage_files(out, {"a": "new"})
    assert names(out) == {"a"}
    assert (out / "a").read_text() == "old"


@pytest.mark.parametrize("last", ["a", "b"])
def test_a_signal_after_a_file_is_moved_leaves_no_half_of_a_result(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python hears of it as the call returns: the file is in its place already."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    from samihs_runtime.writers import files

    real = files.os.replace

    def told_to_end(source: Path, target: Path) -> None:
        real(source, target)
        if Path(source).parent.name == "new" and Path(target).name == last:
            raise SystemExit(143)

    monkeypatch.setattr(files.os, "replace", told_to_end)
    with pytest.raises(SystemExit):
        stage_files(out, {"a": "new", "b": "new"})
    assert names(out) == {"a"}
    assert (out / "a").read_text() == "old"


def test_of_two_processes_that_exchange_files_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage_files(out, {"a": "first"})
    with held_alone(out, "writes"), pytest.raises(OutputError, match="another process writes in"):
        stage_files(out, {"a": "second", "b": "second"})
    assert names(out) == {"a"}
    stage_files(out, {"b": "third"})
    assert names(out) == {"b"}


def test_what_a_killed_run_had_taken_out_comes_back(tmp_path: Path) -> None:
    """Killed (SIGKILL) before any file of the new result was in."""
    out = tmp_path / "out"
    left_aside(out, "a", "b")
    with pytest.raises(OutputError, match="already holds a, b"):
        check_destination(out, ("a", "b", "c"))
    assert names(out) == {"a", "b"}
    assert (out / "b").read_text() == "earlier"


def test_what_a_killed_run_left_half_done_is_told_and_goes_when_it_is_overwritten(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    hidden = left_aside(out, "a", "b")
    (out / "c").write_text("of the new result")
    with pytest.raises(OutputError, match=rf"already holds c.*lies in .*{hidden.name}/old"):
        check_destination(out, ("a", "b", "c"))
    stage_files(out, {"a": "third"})
    assert names(out) == {"a"}


def left_aside(out: Path, *taken: str) -> Path:
    """What a run leaves that is killed in the midst of an exchange, an hour later."""
    hidden = out / ".samihs-0a1b2c3d"
    (hidden / "old").mkdir(parents=True)
    for name in taken:
        (hidden / "old" / name).write_text("earlier")
    os.utime(hidden, (0, 0))
    return hidden


def test_a_folder_is_enough_its_parent_need_not_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted volume, say: files cannot be prepared outside and moved in."""
    only_within(tmp_path / "out", monkeypatch)
    check_destination(tmp_path / "out")
    stage_files(tmp_path / "out", {"a": "first"})
    stage_files(tmp_path / "out", {"a": "second"})
    assert names(tmp_path / "out") == {"a"}
    with pytest.raises(ValueError, match="half way"):
        stage_files(tmp_path / "out", {"a": "third", "b": None})
    assert names(tmp_path / "out") == {"a"}
    assert (tmp_path / "out" / "a").read_text() == "second"
    with pytest.raises(OutputError, match="Permission denied"):
        check_destination(tmp_path / "beside")


def only_within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder, and let temporary ones be made nowhere else (root may write anywhere)."""
    from samihs_runtime.writers import files

    real = files.tempfile.mkdtemp

    def mkdtemp(prefix: str, dir: Path) -> str:
        if Path(dir) != folder:
            raise PermissionError(13, "Permission denied")
        return real(prefix=prefix, dir=dir)

    folder.mkdir()
    monkeypatch.setattr(files.tempfile, "mkdtemp", mkdtemp)


def test_the_current_folder_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stage_files(Path("."), {"a": "whole"})
    assert names(tmp_path / "here") == {"a"}
    assert names(tmp_path) == {"here"}


def test_a_place_is_refused_before_the_work_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        check_destination(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        check_destination(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="already holds file"):
        check_destination(tmp_path, ("file",))
    check_destination(tmp_path, ("file",), overwrite=True)
    check_destination(tmp_path / "deep" / "out", ("file",))
    assert names(tmp_path) == {"file"}


def stage_files(out: Path, texts: dict[str, str | None]) -> None:
    """Write these files; a text of None is an error half way."""
    with staged_folder(out, ("a", "b", "c"), overwrite=True) as stage:
        for name, text in texts.items():
            if text is None:
                raise ValueError("half way")
            (stage.folder / name).write_text(text)


def test_of_two_processes_with_one_destination_the_later_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = pytest.raises(OutputError, match=r"already holds report\.json")
    with refused, staged_folder(out, ("report.json",)) as later:
        write(make_series(), not_found(), out, ("json",))
        (later.folder / "report.json").write_text("later")
    assert "later" not in (out / "report.json").read_text()
    assert names(tmp_path) == {"out"}


def test_an_error_while_writing_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half way"):
        stage_files(tmp_path / "out", {"a": "half", "b": None})
    assert names(tmp_path) == set()
    stage_files(tmp_path / "out", {"a": "whole"})
    assert names(tmp_path / "out") == {"a"}


def test_what_a_killed_run_left_goes_with_the_next_write(tmp_path: Path) -> None:
    left = {
        ".samihs-abandon1": "new/overlay.png",
        ".samihs-writing1": "new/overlay.png",
        ".samihs-settings": "mine.txt",
        "samihs-abandon12": "new/overlay.png",
    }
    for folder, name in left.items():
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
        if folder != ".samihs-writing1":
            os.utime(tmp_path / folder, (0, 0))
    write(make_series(), not_found(), tmp_path, ("json",))
    assert names(tmp_path) == {*left, "report.json"} - {".samihs-abandon1"}


def test_importing_the_writers_loads_no_heavy_library() -> None:
    """`samihs-infer --help` must answer at once."""
    code = (
        "import sys, samihs_runtime.writers, samihs_runtime.report, samihs_runtime.measurement;"
        "print({'highdicom', 'nibabel', 'PIL', 'scipy', 'pydicom'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
