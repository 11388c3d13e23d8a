"""pydicom's warnings quote values: nothing of them is seen, whoever reads, and in however many
threads."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.measurement import measure
from samihs_runtime.quiet_dicom import quiet_dicom
from samihs_runtime.writers import capture, seg

from .dicom_factory import ct_image, save
from .series_factory import make_lesion, make_report, make_series

MALFORMED = {
    "SOPInstanceUID": "1.2.826.0.1.0123.77",
    "StudyInstanceUID": "1.2.826.0.1.0456.77",
    "FrameOfReferenceUID": "1.2.826.0.1.0789.77",
    "AccessionNumber": "ACC-9981776-QUIRINE1",
    "StudyID": "STUDY-OF-QUIRINE-7781",
    "PatientBirthDate": "1947.31.08",
    "PatientAge": "seventy-six",
    "StudyDate": "2024-1-2",
    "StationName": "CT-OF-QUIRINE-ZZYZXOVA",
    "InstanceNumber": "7.5",
}
"""Zero-padded components, more characters than the VR allows, what is no date or number."""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for index in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = {**MALFORMED, "SOPInstanceUID": f"{MALFORMED['SOPInstanceUID']}.{index}"}
            save(ct_image(index, **own), folder / f"IM{index}")
    return folder


def test_the_command_says_nothing_of_malformed_headers(
    study: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """In a process of its own: under pytest every warning is an error, and caught as one."""
    script = (
        "import sys\n"
        "from samihs_runtime.cli import main\n"
        "from samihs_runtime.formats import NAMES\n"
        "study, bundle, out = sys.argv[1:]\n"
        "formats = [each for name in NAMES for each in ('--format', name)]\n"
        "click = [study, '--point', '4,5,1', '--bundle', bundle, '--backend', 'cpu', *formats]\n"
        "main([study, '--list'], standalone_mode=False)\n"
        "for option in ('--identify', '--deidentify'):\n"
        "    main([*click, '--out', out + option, option], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", "-c", script, study, tiny_bundle,
         tmp_path / "out"],
        capture_output=True,
        text=True,
        env={name: each for name, each in os.environ.items() if name != "PYTHONWARNINGS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "out--deidentify" / "report.json").is_file()


def say_something() -> None:
    """As pydicom does: a warning of its module, and a line in its log."""
    warnings.warn_explicit("Invalid value: 'QUIRINE'", UserWarning, "v.py", 1, "pydicom.valuerep")
    logging.getLogger("pydicom").warning("Invalid value: 'QUIRINE'")


def test_a_reader_that_ends_leaves_the_others_quiet(caplog: pytest.LogCaptureFixture) -> None:
    inside, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with quiet_dicom():
            inside.set()
            may_leave.wait(20)

    thread = threading.Thread(target=other)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        thread.start()
        assert inside.wait(20)
        with quiet_dicom():
            may_leave.set()
            thread.join()  # it came first and leaves first
            say_something()
            with quiet_dicom():
                say_something()
            say_something()
        assert warnings.filters == before
    assert caught == []
    assert caplog.records == []


def test_who_reads_nothing_is_not_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_dicom():
            warnings.warn_explicit("mine", UserWarning, "m.py", 1, "my.module")
            logging.getLogger("my.module").warning("mine")
            thread = threading.Thread(target=logging.getLogger("pydicom").warning, args=("theirs",))
            thread.start()
            thread.join()
        say_something()
    assert [str(each.message) for each in caught] == ["mine", "Invalid value: 'QUIRINE'"]
    assert [each.message for each in caplog.records] == [
        "mine", "theirs", "Invalid value: 'QUIRINE'",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["seg", "capture"])
def test_a_writer_that_ends_leaves_the_others_quiet(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """highdicom quotes a name without ``^``; a reader of another thread comes while it writes."""
    series = make_series(PatientName="QUIRINE", ReferringPhysicianName="QUIRINE")
    lesion = make_lesion(series)
    entered, written = threading.Event(), threading.Event()

    def reader() -> None:
        with quiet_dicom():
            entered.set()
            written.wait(20)
            say_something()

    thread = threading.Thread(target=reader)
    module = {"seg": seg, "capture": capture}[kind]
    real = module.source_datasets

    def meanwhile(*arguments: Any) -> Any:
        thread.start()
        assert entered.wait(20)
        return real(*arguments)

    monkeypatch.setattr(module, "source_datasets", meanwhile)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kind == "seg":
            seg.write_seg(series, lesion, make_report(), tmp_path / "seg.dcm")
        else:
            numbers = measure(series, lesion)
            capture.write_capture(series, lesion, numbers, make_report(), tmp_path / "sc.dcm")
        written.set()
        thread.join()
    assert caught == []
