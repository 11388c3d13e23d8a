"""Which words of a text are a person's name, and which only look like one."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from samihs_runtime.identity import REMOVED, Scrubber, scrubbed

from .series_factory import header

X = REMOVED


@pytest.mark.parametrize(
    ("name", "text", "clean"),
    [
        ("Li^Na", "Li Na head", f"{X} head"),
        ("Li^Na", "head of LiNa", f"head of {X}"),
        ("Li^Na", "Na Li head", f"{X} head"),
        ("Li^Na", "li na, Dr. Li", f"{X}, Dr. {X}"),
        ("LI^NA", "/in/LI_NA/Li.dcm", f"/in/{X}_{X}/{X}.dcm"),
        ("Li^Na^^Dr", "LiNa", X),
        ("Lê^Hà", "Lê, head of HÀ", f"{X}, head of {X}"),
        ("Ли^Ян", "Ян Ли, голова", f"{X}, голова"),
        ("山田^太郎", "山田太郎", X),
        ("山田^太郎", "山田 太郎 頭部", f"{X} 頭部"),
        ("山田^太郎", "太郎様の頭部", f"{X}様の頭部"),
        ("佐々木^健", "佐々木様、健さん", f"{X}様、{X}さん"),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            "Yamada; 山田の; やまだたろう",
            f"{X}; {X}の; {X}",
        ),
        ("김^민수", "김민수 두부", f"{X} 두부"),
        ("Zzyzxova^Quirine", "Quirine Zzyzxova's", f"{X}'s"),
    ],
)
def test_names_are_removed_whole_and_in_part(name: str, text: str, clean: str) -> None:
    assert Scrubber([header(PatientName=name)]).text(text) == clean
    assert scrubbed(text, header(PatientName=name)) == clean


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Ma^Ada", "Madagascar, Canada, 7 mm"),
        ("An^No", "an answer, no air; Another Note"),
        ("Do^In", "do not, in slice 3"),
        ("Hu^Ct", "CT of 35 HU"),
        ("Zzyzxova^A^^Mr", "a series, A series, modality MR"),
        ("Zzyzxova^É", "médecine, É"),
        ("Иванов^И^А", "и голова, А"),
        ("Phantom^12^5", "12 slices of 5 mm"),
    ],
)
def test_ordinary_words_stay(name: str, text: str) -> None:
    assert Scrubber([header(PatientName=name)]).text(text) == text


@pytest.mark.parametrize("keyword", ["PatientBirthDate", "StudyDate", "SeriesDate"])
@pytest.mark.parametrize(
    "text",
    ["19470831", "31.08.1947", "31.8.47", "1947-08-31", "8/31/1947", "31/08/1947", "08-31-47"],
)
def test_days_are_removed_as_people_write_them(keyword: str, text: str) -> None:
    tags = {keyword: "19470831"}
    assert Scrubber([header(**tags)]).text(f"CT head {text}, 12 slices") == (
        f"CT head {X}, 12 slices"
    )
    assert scrubbed(f"b. {text}", header(**tags)) == f"b. {X}"
    other = "31.08.1974, 30.8.47, 1.8.470"
    assert Scrubber([header(**tags)]).text(other) == other


def test_numbers_of_other_archives_are_removed() -> None:
    other = Dataset()
    other.PatientID = "WARD-7-123"
    assert scrubbed("sent as WARD-7-123", header(OtherPatientIDsSequence=[other])) == f"sent as {X}"


@pytest.mark.parametrize(
    "tags",
    [
        {"InstitutionName": "The Royal Hospital for Children"},
        {"StationName": "CT of the Head"},
    ],
)
def test_words_of_an_institutions_name_stay(tags: dict[str, Any]) -> None:
    scrubber = Scrubber([header(**tags)])
    text = "The slices of the head, for children"
    assert scrubber.text(text) == text
    (whole,) = tags.values()
    assert scrubber.text(f"made in {whole}") == f"made in {REMOVED}"


def test_persons_and_days_are_known_wherever_they_stand() -> None:
    """By their value representation, down to the items of sequences, as read from a file."""
    reading = Dataset()
    reading.ConsultingPhysicianName = ["Oblomovsky^Casimir", "Vandersloot^P"]
    asked = Dataset()
    asked.RequestedProcedureID = "RP-551"
    asked.add_new(0x00080081, "ST", "7 Nowhere Lane")
    reading.RequestAttributesSequence = [asked]
    reading.AcquisitionDateTime = "19470831101112.5"
    inner = header(ReferencedStudySequence=[reading])
    text = "Casimir, Vandersloot; 31.8.1947; RP-551; 7 Nowhere Lane"
    clean = f"{X}, {X}; {X}; {X}; {X}"
    assert scrubbed(text, inner) == clean
    for implicit in (True, False):
        stream = BytesIO()
        pydicom.dcmwrite(stream, inner, implicit_vr=implicit, little_endian=True)
        stream.seek(0)
        assert scrubbed(text, pydicom.dcmread(stream, force=True)) == clean


def test_sequences_without_end_are_no_fault() -> None:
    nested = header()
    for _ in range(2000):
        nested = header(ReferencedStudySequence=[nested])
    assert scrubbed("Quirine's head", nested) == f"{X}'s head"


def test_a_value_that_cannot_be_converted_hides_no_other() -> None:
    class Broken(Dataset):
        def __getitem__(self, key: Any) -> Any:
            if Tag(key) == Tag("PatientID"):
                raise ValueError("malformed")
            return super().__getitem__(key)

    broken = Broken(header())
    broken.PatientName = "Zzyzxova^Q"
    assert scrubbed("Zzyzxova 5 mm", broken) == f"{REMOVED} 5 mm"
