"""A planted name, searched for in every byte that the command writes or prints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from samihs_runtime.cli import main
from samihs_runtime.formats import NAMES
from samihs_runtime.study import read_study

from .dicom_factory import uid, write_bleed

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Click's runner

NAME = "Zzyzxova^Quirine"
TAGS = {
    "PatientName": NAME,
    "PatientID": "MRN-7781234",
    "PatientBirthDate": "19470831",
    "AccessionNumber": "ACC9981776",
    "InstitutionName": "Nowhere General",
    "ReferringPhysicianName": "Grumblethwaite^Ignatius",
    "OperatorsName": "Vandersloot^Petronella",
    "StudyDescription": "Head of Quirine Zzyzxova",
    "SeriesDescription": "zzyzxova 5 mm MRN-7781234 Snodgrass PPS-88123 Plantedward",
    "PatientComments": "planted comment of Quirine",
    "RequestingPhysician": "Oblomovsky^Casimir",
    "PhysiciansOfRecord": "Quackenbush^Leopoldine",
    "ConsultingPhysicianName": ["Fezziwig^Barnabas", "Snodgrass^Augustus"],
    "InstitutionalDepartmentName": "Plantedward",
    "PerformedProcedureStepID": "PPS-88123",
    "BodyPartExamined": "FEZZIWIG",
    "ProtocolName": "Head, Dr. Quackenbush, PPS-88123",
}
SECRETS = (
    "zzyzxova", "quirine", "mrn-7781234", "19470831", "acc9981776", "nowhere general",
    "grumblethwaite", "ignatius", "vandersloot", "petronella", "oblomovsky", "casimir",
    "quackenbush", "leopoldine", "fezziwig", "barnabas", "snodgrass", "plantedward",
    "pps-88123", "planted comment", uid("study"), uid("series"), uid("frame of reference"),
)  # fmt: skip
"""Everything of it, and the UIDs that a PACS would find the study by."""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_bleed(tmp_path / "study", **TAGS)


def everything_in(folder: Path) -> dict[str, bytes]:
    """Each file's bytes with its name, unpacked where packed, lower case."""
    contents = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content += gzip.decompress(content) if path.suffix == ".gz" else b""
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    content += str(picture.info).encode()
            contents[path.name] = path.name.encode().lower() + content.lower()
    return contents


def run(study: Path, bundle: Path, out: Path, *options: str) -> str:
    formats = [each for name in NAMES for each in ("--format", name)]
    arguments = [str(study), "--point", "36,30,2", "--bundle", str(bundle), "--out", str(out)]
    result = CliRunner().invoke(main, [*arguments, *formats, *options])
    assert result.exit_code == 0, result.output
    assert "hemorrhage by slice" in result.output  # found: what is said and drawn then, too
    assert (out / "contact-sheet.png").is_file()
    return result.output.lower()


def assert_clean(content: bytes, name: str) -> None:
    for secret in SECRETS:
        assert secret.encode() not in content, (name, secret)


def test_nothing_but_dicom_objects_names_the_patient(
    study: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    printed = run(study, tiny_bundle, tmp_path / "out")
    files = everything_in(tmp_path / "out")
    assert_clean(printed.encode(), "terminal")
    dicom = {name for name in files if name.endswith(".dcm")}
    assert len(dicom) == 2
    for name in dicom:
        assert b"zzyzxova" in files[name]  # a PACS needs it, and the search can find it
    for name in files.keys() - dicom:
        assert_clean(files[name], name)


def test_a_compression_that_is_called_by_a_name_is_not_quoted(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionMethod": "QUIRINE ZZYZXOVA"}
    study = write_bleed(tmp_path / "study", **TAGS, **lossy)
    printed = run(study, tiny_bundle, tmp_path / "out")
    assert_clean(printed.encode(), "terminal")
    report = everything_in(tmp_path / "out")["report.json"]
    assert b"compressed with loss ([removed])" in report
    assert_clean(report, "report.json")


def test_deidentified_not_even_they_do(study: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    run(study, tiny_bundle, tmp_path / "out", "--deidentify")
    files = everything_in(tmp_path / "out")
    assert {"lesion-seg.dcm", "contact-sheet.dcm"} <= set(files)
    for name, content in files.items():
        assert_clean(content, name)


def test_the_series_itself_names_nobody(study: Path) -> None:
    """Whoever reads a study from Python may log what he is told of it."""
    (study / "Zzyzxova.dcm").write_bytes((study / "IM0").read_bytes()[:900])  # damaged: noted
    series = read_study(study)
    assert "5 mm" in series.description
    assert any("BodyPartExamined" in note for note in series.notes)
    assert any("damaged" in note for note in series.notes)
    assert_clean(" ".join((series.description, *series.notes)).lower().encode(), "series")


def test_identify_names_the_patient_in_the_report_alone(
    study: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    run(study, tiny_bundle, tmp_path / "out", "--identify")
    files = everything_in(tmp_path / "out")
    assert b"mrn-7781234" in files["report.json"]
    for name in files:
        if not name.endswith((".dcm", "report.json")):
            assert_clean(files[name], name)


def test_to_identify_and_not_to_is_refused(study: Path, tiny_bundle: Path) -> None:
    arguments = [str(study), "--point", "4,5,1", "--identify", "--deidentify"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "opposites" in result.stderr


def test_the_list_of_series_names_nobody(study: Path) -> None:
    result = CliRunner().invoke(main, [str(study), "--list"])
    assert "5 mm" in result.output
    assert_clean(result.output.lower().encode(), "--list")


def test_a_table_of_clicks_names_nobody(study: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Not even where the study's path does, or a click fails."""
    named = study.rename(tmp_path / "Zzyzxova_Quirine")
    clicks = tmp_path / "clicks.json"
    rows = [{"study": named.name, "points": [[36, 30, z]]} for z in (2, 77)]
    clicks.write_text(json.dumps(rows))
    arguments = ["--clicks", str(clicks), "--bundle", str(tiny_bundle), "--out"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "out"), "--deidentify"])
    assert result.exit_code == 2
    files = everything_in(tmp_path / "out")
    assert {"clicks.csv", "report.json"} <= set(files)
    for name, content in files.items():
        assert_clean(content, name)
