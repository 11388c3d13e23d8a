"""Headers without identity: a list of what is kept, and UIDs that still belong together."""

from __future__ import annotations

import re

from samihs_runtime.deidentify import KEPT, SAID, deidentified
from samihs_runtime.uids import new_uid

from .series_factory import make_series

UIDS = {"StudyInstanceUID", "FrameOfReferenceUID"}


def test_only_what_is_listed_is_kept() -> None:
    kept = deidentified(make_series(EthnicGroup="planted", InstitutionalDepartmentName="planted"))
    for source in kept.sources:
        assert {element.keyword for element in source.header} <= {*KEPT, *SAID, *UIDS}
    assert (kept.description, kept.notes) == ("", ())


def test_pixels_and_places_stay() -> None:
    series = make_series()
    kept = deidentified(series)
    assert kept.hu is series.hu
    assert kept.planes == series.planes


def test_uids_are_new_and_the_same_each_time() -> None:
    series = make_series()
    one, other = deidentified(series), deidentified(series)
    assert one.series_uid == other.series_uid != series.series_uid
    before = {source.sop_instance_uid for source in series.sources}
    after = [source.sop_instance_uid for source in one.sources]
    assert len(set(after)) == len(after)
    assert before.isdisjoint(after)


def test_uids_are_as_the_standard_writes_them() -> None:
    uid = new_uid("1.2.3")
    assert re.fullmatch(r"2\.25\.(0|[1-9]\d{0,38})", uid)
    assert int(uid.split(".")[2]) < 2**128


def test_the_original_is_left_alone() -> None:
    series = make_series()
    deidentified(series)
    assert str(series.sources[0].header.PatientID) == "MRN-7781234"
