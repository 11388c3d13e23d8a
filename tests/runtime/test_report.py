"""The report's document: its schema, its numbers, and no identity in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from samihs_runtime.identity import REMOVED, Scrubber, identifying_values
from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Prompt
from samihs_runtime.writers.report_json import write_report

from .series_factory import PLANTED, header, make_lesion, make_report, make_series, not_found

SCHEMA = Path(__file__).parents[2] / "docs" / "report-schema.json"


def schema() -> Any:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def document(**changes: Any) -> dict[str, Any]:
    series = make_series(**changes)
    lesion = make_lesion(series)
    return make_report().document(series, lesion, measure(series, lesion))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("identify", [False, True])
@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("positions", [(0.0, 4.0, 8.0, 9.08, 16.08), (0.0,)])
def test_reports_keep_to_the_schema(
    found: bool, identify: bool, positions: tuple[float, ...]
) -> None:
    series = make_series(positions)
    indices = (1, 2) if len(positions) > 1 else (0,)
    lesion = make_lesion(series, indices) if found else not_found(0)
    report = make_report(
        prompt=Prompt(((3.0, 4.5), (9.0, 9.0)), (1, 0), (1.0, 2.0, 30.0, 40.0)),
        score_threshold=None,
    )
    made = report.document(series, lesion, measure(series, lesion), identify=identify)
    jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), schema())
    assert ("identity" in made) == identify


def test_a_document_with_a_field_too_many_or_too_few_is_told_apart() -> None:
    """The schema can fail."""
    for wrong in ({"extra": 1}, {"found": "yes"}, {"schema_version": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document() | wrong, schema())
    short = document()
    del short["seconds"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(short, schema())


def test_numbers_are_the_measurements() -> None:
    made = document()
    assert made["measurement"]["volume_ml"] == 0.18
    assert made["measurement"]["parts"] == 1
    assert made["measurement"]["mean_hu"] == 70.0
    assert [row["index"] for row in made["slices"]] == [1, 2, 3]
    assert sum(row["volume_ml"] for row in made["slices"]) == pytest.approx(0.18)
    assert [row["origin"] for row in made["slices"]] == ["propagated", "clicked", "propagated"]
    assert made["slices"][0]["along_normal_mm"] == pytest.approx(-30.125 + 5)
    assert made["request"]["points"] == [{"x": 26.0, "y": 30.0, "label": 1}]
    assert made["seconds"] == {"load": 0.12, "encode": 0.21, "click": 0.03}
    assert made["statement"] == "Trained on synthetic CT only; not for clinical use"


def test_slices_are_named_as_viewers_name_them() -> None:
    def named(**changes: Any) -> list[tuple[int | None, int | None]]:
        rows = document(**changes)["slices"]
        return [(row["instance_number"], row["frame_number"]) for row in rows]

    assert named() == [(2, None), (3, None), (4, None)]
    assert named(enhanced=True, InstanceNumber=7) == [(7, 4), (7, 3), (7, 2)]
    assert named(enhanced=True) == [(None, 4), (None, 3), (None, 2)]


def test_a_bundle_for_clinical_use_makes_no_other_claim() -> None:
    assert "not for clinical use" not in make_report(clinical_use=True).statement


def test_nan_becomes_null_not_invalid_json(tmp_path: Path) -> None:
    made = make_report(timings={"encode": float("nan")}).document(
        make_series(), not_found(), measure(make_series(), not_found())
    )
    assert made["seconds"] == {"encode": None}
    write_report(made, tmp_path / "report.json")
    with pytest.raises(ValueError, match="JSON"):
        write_report({"score": float("nan")}, tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Head for ZZYZXOVA, Quirine", f"Head for {REMOVED}, {REMOVED}"),
        ("left out: /in/zzyzxova_q/MRN-7781234.dcm", f"left out: /in/{REMOVED}_q/{REMOVED}.dcm"),
        ("acc ACC9981776; born 19470831", f"acc {REMOVED}; born {REMOVED}"),
        ("old number OLD-4410-X", f"old number {REMOVED}"),
        ("series 1.2.826.0.1.3680043.8.498.1002.", f"series {REMOVED}."),
        ("Head 5 mm, kernel H31s", "Head 5 mm, kernel H31s"),
    ],
)
def test_free_text_is_scrubbed(text: str, clean: str) -> None:
    assert Scrubber([header()]).text(text) == clean


def test_short_values_do_not_shred_text() -> None:
    headers = [header(PatientName="Ma^Ada", PatientID="7", StudyID="")]
    assert "7" not in identifying_values(headers)
    scrubber = Scrubber(headers)
    assert scrubber.text("7 mm Madagascar, Canada") == "7 mm Madagascar, Canada"
    assert scrubber.text("seen by ada") == f"seen by {REMOVED}"


def test_identify_keeps_text_and_adds_identity() -> None:
    series = make_series(description="Head of [removed]", SeriesDescription="Head of Zzyzxova")
    lesion = make_lesion(series)
    made = make_report().document(series, lesion, measure(series, lesion), identify=True)
    assert made["series"]["description"] == "Head of Zzyzxova"
    assert made["identity"]["patient_id"] == PLANTED["PatientID"]
    assert len(made["identity"]["sop_instance_uids"]) == 5
