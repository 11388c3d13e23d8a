"""``samihs-infer`` as its user runs it: real DICOM on disk, a bundle, exit codes and files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.cli import main
from samihs_runtime.errors import OutputError
from samihs_runtime.formats import NAMES
from samihs_runtime.infer import answer_click
from samihs_runtime.options import Options
from samihs_runtime.prompts import parse_request
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries
from samihs_runtime.study import read_study
from samihs_runtime.writers import WriteOptions
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom

from .dicom_factory import PATIENT, ct_image, save, write_bleed, write_series
from .series_factory import make_series
from .study.test_series import MIXED, REFUSED

pytestmark = pytest.mark.filterwarnings(
    # Click's runner leaves its captured streams to the garbage collector.
    "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    options = PhantomOptions(
        matrix=128, slices=6, slice_thickness_mm=5.0, bleeds=(BleedType.INTRAPARENCHYMAL,)
    )
    write_dicom(generate_study(3, options), folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_a_click_gives_a_table_and_three_files(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(
        phantom, "--click-file", phantom / "truth.json", "--bundle", tiny_bundle, "--out", out
    )
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()}
    assert {"lesion-seg.dcm", "overlay.png", "report.json"} <= names
    report = json.loads((out / "report.json").read_text())
    assert isinstance(report["result"]["found"] if "result" in report else report["found"], bool)
    assert "not for clinical use" in result.output


def test_a_phantoms_click_is_not_taken_for_mm(phantom: Path, tmp_path: Path) -> None:
    """Its three numbers would make a point in mm as well, somewhere else in the head."""
    result = run(phantom, "--mm", "--click-file", phantom / "truth.json", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--click-file holds pixels, not mm" in result.stderr


def test_a_given_score_threshold_is_said_and_reported(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    study = (phantom, "--click-file", phantom / "truth.json", "--bundle", tiny_bundle)
    for threshold in (0.0, 1.0):
        out = tmp_path / str(threshold)
        given = ("--score-threshold", threshold, "--format", "json", "--out", out)
        result = run(*study, *given)
        assert result.exit_code == 0, result.output
        assert f"the score's threshold is {threshold:.3f}, as given" in result.output
        report = json.loads((out / "report.json").read_text())
        assert report["request"]["score_threshold"] == threshold
    assert run(*study, "--score-threshold", 1.5, "--out", tmp_path / "no").exit_code == 2


def test_an_earlier_result_is_kept_unless_told(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = (phantom, "--point", "64,64,2", "--bundle", tiny_bundle, "--out", tmp_path / "out")
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert run(*arguments, "--overwrite").exit_code == 0


def test_another_request_is_not_written_beside_an_earlier_result(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = (phantom, "--point", "64,64,2", "--bundle", tiny_bundle, "--out", tmp_path / "out")
    assert run(*arguments, "--format", "json").exit_code == 0
    refused = run(*arguments, "--format", "nifti")
    assert refused.exit_code == 2
    assert "already holds report.json" in refused.output
    assert run(*arguments, "--format", "nifti", "--overwrite").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lesion.nii.gz"}


@pytest.mark.parametrize(
    ("out", "why"), [("file", "is a file"), ("file/below", "cannot be written")]
)
def test_an_out_that_cannot_be_is_refused_before_the_work(
    out: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    result = run(tmp_path / "no such study", "--point", "5,5", "--out", tmp_path / out)
    assert result.exit_code == 2
    assert why in result.stderr


def test_the_first_and_last_slice_are_named_as_a_viewer_does(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = ("--point", "64,64,2", "--bundle", tiny_bundle, "--format", "json")
    result = run(phantom, *arguments, "--out", tmp_path / "out")
    sources = read_study(phantom).sources
    first, last = (sources[index].header.InstanceNumber for index in (0, -1))
    assert f"slice 0 is image {first}, slice 5 is image {last}" in result.output


def test_a_store_keeps_embeddings_for_the_next_click(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    def ask(store: Path) -> Result:
        arguments = (phantom, "--point", "64,64,2", "--bundle", tiny_bundle, "--overwrite")
        return run(*arguments, "--out", tmp_path / "out", "--store", store)

    assert ask(tmp_path / "kept").exit_code == 0
    first = {each.name: each.stat().st_ino for each in (tmp_path / "kept").glob("*.embedding")}
    assert first
    assert ask(tmp_path / "kept").exit_code == 0
    again = {each.name: each.stat().st_ino for each in (tmp_path / "kept").glob("*.embedding")}
    assert again == first  # read, not written anew
    (tmp_path / "file").write_text("")
    refused = ask(tmp_path / "file")
    assert refused.exit_code == 2
    assert "embeddings cannot be kept in" in refused.output


def test_series_are_listed(phantom: Path) -> None:
    result = run(phantom, "--list")
    assert result.exit_code == 0
    assert "axial" in result.output


def _text_file(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("no study")
    return path


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _mr_series(folder: Path) -> Path:
    return write_series(folder / "mr", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")


@pytest.mark.parametrize(
    "study", [lambda folder: folder / "absent", _text_file, _empty_folder, _mr_series]
)
def test_what_is_no_ct_study_is_one_line_and_exit_2(
    study: object, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert callable(study)
    path = study(tmp_path)
    _one_line_nothing_written([path, "--point", "5,5", "--bundle", tiny_bundle], tmp_path / "out")


@pytest.mark.parametrize("tags", [tags for tags, _ in REFUSED.values()], ids=REFUSED.keys())
def test_every_refused_header_is_one_line_and_exit_2(
    tags: dict[str, object], tiny_bundle: Path, tmp_path: Path
) -> None:
    save(ct_image(0, **tags), tmp_path / "study" / "IM0")
    line = _one_line_nothing_written(
        [tmp_path / "study", "--point", "5,5", "--bundle", tiny_bundle], tmp_path / "out"
    )
    assert PATIENT not in line


@pytest.mark.parametrize("other", [other for other, _ in MIXED.values()], ids=MIXED.keys())
def test_every_mixed_series_is_one_line_and_exit_2(
    other: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    save(other, write_series(tmp_path / "study") / "other")
    _one_line_nothing_written(
        [tmp_path / "study", "--point", "5,5", "--bundle", tiny_bundle], tmp_path / "out"
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--point", "999,5,2"],
        ["--point", "5,5", "--slice", "77"],
        ["--point", "five"],
        ["--negative", "5,5"],
        ["--point", "5,5,2", "--mm", "--slice", "2"],
        ["--point", "5,5,9000", "--mm"],
        ["--point", "5,5,2", "--backend", "tensorrt"],
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_exit_2(
    options: list[str], phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    _one_line_nothing_written([phantom, *options, "--bundle", tiny_bundle], tmp_path / "out")


def test_a_bundle_with_a_changed_byte_is_refused(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    graph = next(tiny_bundle.rglob("encoder.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    _one_line_nothing_written(
        [phantom, "--point", "5,5,2", "--bundle", tiny_bundle], tmp_path / "out"
    )


def test_a_bundle_path_that_leaves_its_folder_is_refused(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    manifest = tiny_bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace("onnx/encoder.onnx", "../encoder.onnx"))
    _one_line_nothing_written(
        [phantom, "--point", "5,5,2", "--bundle", tiny_bundle], tmp_path / "out"
    )


def test_without_onnxruntime_the_extra_is_named(
    phantom: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    line = _one_line_nothing_written(
        [phantom, "--point", "5,5,2", "--bundle", tiny_bundle], tmp_path / "out"
    )
    assert "samihs[cpu]" in line


def _one_line_nothing_written(arguments: list[object], out: Path) -> str:
    result = run(*arguments, "--out", out)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not out.exists()
    return lines[0]


def test_a_fault_of_ours_is_one_line_too_and_a_traceback_only_on_request(
    phantom: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("samihs_runtime.infer.measure", broken)
    arguments = (phantom, "--point", "64,64,2", "--bundle", tiny_bundle, "--out", tmp_path / "out")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1].startswith("internal error: RuntimeError")
    monkeypatch.setenv("SAMIHS_DEBUG", "1")
    assert isinstance(run(*arguments).exception, RuntimeError)


def test_help_is_there_in_a_fresh_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "samihs_runtime.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--point" in done.stdout


def test_masks_do_not_depend_on_the_order_of_files(tiny_bundle: Path, tmp_path: Path) -> None:
    ordered, shuffled = write_bleed(tmp_path / "ordered"), tmp_path / "shuffled"
    shuffled.mkdir()
    for index, path in enumerate(sorted(ordered.iterdir(), reverse=True)):
        (shuffled / f"{index}.dcm").write_bytes(path.read_bytes())
    reports = []
    for folder in (ordered, shuffled):
        out = tmp_path / f"out-{folder.name}"
        arguments = ("--point", "36,30,2", "--bundle", tiny_bundle, "--out", out, "--format")
        assert run(folder, *arguments, "json").exit_code == 0
        report = json.loads((out / "report.json").read_text())
        report.pop("seconds")
        reports.append(report)
    assert [row["instance_number"] for row in reports[0]["slices"]] == [1, 2, 3, 4, 5]
    assert reports[0] == reports[1]


def test_a_click_in_patient_coordinates_is_the_same_click(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    place = read_study(phantom).planes[2].to_patient(64, 60)
    mm = ",".join(repr(float(value)) for value in place)
    requests = []
    for number, click in enumerate((["--point", "64,60,2"], ["--point", mm, "--mm"])):
        out = tmp_path / f"out{number}"
        arguments = (*click, "--bundle", tiny_bundle, "--out", out, "--format", "json")
        assert run(phantom, *arguments).exit_code == 0
        requests.append(json.loads((out / "report.json").read_text())["request"])
    (one,), (other,) = (request.pop("points") for request in requests)
    assert one == pytest.approx(other, abs=1e-6)
    assert requests[0] == requests[1]


def test_every_format_at_once(phantom: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    formats = [each for name in NAMES for each in ("--format", name)]
    out = tmp_path / "out"
    arguments = ("--point", "64,64,2", "--bundle", tiny_bundle, "--out", out, *formats)
    assert run(phantom, *arguments, "--fractional").exit_code == 0
    names = {path.name for path in out.iterdir()}
    assert {"lesion-seg.dcm", "contact-sheet.dcm", "lesion.nii.gz", "lesion.stl"} <= names


@pytest.mark.parametrize(
    ("option", "formats"),
    [
        ("--resample", ()),
        ("--resample", ("seg", "stl")),
        ("--fractional", ("capture", "nifti", "json", "overlay", "stl")),
        ("--identify", ("seg", "overlay", "nifti", "capture", "stl")),
        ("--deidentify", ("json", "overlay", "nifti", "stl")),
    ],
)
def test_an_option_without_effect_is_refused(
    option: str, formats: tuple[str, ...], tmp_path: Path
) -> None:
    named = [each for name in formats for each in ("--format", name)]
    line = _one_line_nothing_written(
        [tmp_path / "no such study", "--point", "5,5", option, *named], tmp_path / "out"
    )
    assert f"{option} changes only " in line


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--resample", "nifti"),
        ("--fractional", "seg"),
        ("--identify", "json"),
        ("--deidentify", "seg"),
        ("--deidentify", "capture"),
    ],
)
def test_an_option_with_effect_is_not(option: str, name: str, tmp_path: Path) -> None:
    result = run(tmp_path / "no study", "--point", "5,5", option, "--format", name)
    assert "no study: no such file" in result.stderr


def test_a_value_may_begin_with_a_minus_sign(tmp_path: Path) -> None:
    result = run(tmp_path / "no study", "--point", "-3,5", "--out", tmp_path / "out")
    assert "no study: no such file" in result.stderr


def test_help_tells_what_is_in_a_store() -> None:
    assert "An image can be reconstructed from them" in " ".join(run("--help").output.split())


def test_without_a_study_the_way_out_is_named() -> None:
    result = run("--point", "5,5")
    assert result.exit_code == 2
    assert "no STUDY" in result.stderr


def _shifted_slices() -> CTSeries:
    """The third one has slid 3 mm within its plane."""
    series = make_series((0, 4, 8, 12), thickness=4.0)
    x, y, z = series.planes[2].position
    moved = replace(series.planes[2], position=(x + 3.0, y, z))
    return replace(series, planes=(*series.planes[:2], moved, series.planes[3]))


@pytest.mark.parametrize(
    ("series", "resample", "match"),
    [
        (make_series((0, 4, 8, 9.08, 16.08), thickness=4.0), False, "--resample"),
        (_shifted_slices(), True, "evens out distances only.*3.00 mm"),
    ],
)
def test_what_nifti_cannot_hold_is_refused_before_anything_is_encoded(
    series: CTSeries, resample: bool, match: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    backend = FakeBackend.for_manifest(bundle.manifest)
    write = WriteOptions(resample=resample)
    options = Options(None, "auto", tmp_path / "out", ("seg", "nifti"), True, write)
    request = parse_request(["20,20,2"])
    opened = Segmenter(bundle, backend)
    with opened as segmenter, pytest.raises(OutputError, match=match):
        answer_click(segmenter, series, request, options, {})
    assert backend.encodes == 0


def test_a_run_that_is_told_to_end_leaves_nothing_behind(
    phantom: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """In a process of its own: the signal would end this one."""
    script = (
        "import os, signal, sys\n"
        "from samihs_runtime.cli import main\n"
        "from samihs_runtime.writers import report_json\n"
        "def told(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "report_json.write_report = told\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    arguments = [phantom, "--click-file", phantom / "truth.json", "--bundle", tiny_bundle]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), "--out", str(out), "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 143, done.stderr
    assert list(out.iterdir()) == []
