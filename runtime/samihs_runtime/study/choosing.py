"""Choose the series that is the scan: by rule, with the reason, or as the user asks."""

from __future__ import annotations

from samihs_runtime.errors import SeriesError, StudyError
from samihs_runtime.identity import scrubbed

from .judging import Candidate

_FEW_SLICES = 4
"""A series of fewer slices is a key image or a test slice rather than a scan of a head."""


def choose(found: list[Candidate], wanted: str | None, where: str) -> tuple[Candidate, list[str]]:
    """The series to read, and notes that say why.

    Raises:
        SeriesError: the request fits none of these series, or several; names the choices.
        StudyError: none of those that it fits can be read; says why.
    """
    if wanted is not None:
        return _as_asked(found, wanted.strip(), where)
    eligible = [candidate for candidate in found if candidate.verdict.eligible]
    if not eligible:
        raise StudyError(
            f"{where}: no axial CT series in HU; found {_reasons(found)}", reason="no_ct"
        )
    if len({candidate.study_uid for candidate in eligible}) > 1:
        _check_uids_differ(eligible, where)
        raise SeriesError(
            f"{where}: holds CT of several studies; choose one with --series: {_choices(eligible)}",
            reason="several_studies",
        )
    chosen = max(eligible, key=_rank)
    if len(found) == 1:
        return chosen, []
    return chosen, [_why(chosen, eligible, found)]


def _rank(candidate: Candidate) -> tuple[object, ...]:
    """Better series sort higher; among equals the lower series number wins."""
    return (
        candidate.slices >= _FEW_SLICES,
        candidate.original,
        not candidate.enhanced_by_contrast,
        ("sharp", "unknown", "soft").index(candidate.sharpness),
        candidate.slices,
        -(candidate.number or 0),
    )


def _why(chosen: Candidate, eligible: list[Candidate], found: list[Candidate]) -> str:
    traits = ["original" if chosen.original else "derived", "axial"]
    if chosen.sharpness != "unknown":
        traits.append("soft kernel" if chosen.sharpness == "soft" else "sharp kernel")
    traits.append(f"{chosen.slices} slices")
    others = [c for c in eligible if c is not chosen]
    rest = (
        f"preferred to {len(others)} other axial series" if others else "the only axial CT series"
    )
    return (
        f"{_label(chosen)} chosen of {len(found)} ({', '.join(traits)}; {rest}); "
        "--series takes another"
    )


def _as_asked(found: list[Candidate], wanted: str, where: str) -> tuple[Candidate, list[str]]:
    matches = _matching(found, wanted)
    if not matches:
        raise SeriesError(
            f"{where}: no series {wanted!r}; there are {_labels(found)}", reason="no_such_series"
        )
    if len({(match.study_uid, match.uid) for match in matches}) > 1:
        _check_uids_differ(matches, where)
        raise SeriesError(
            f"{where}: series {wanted!r} is not unique: {_uids(matches)}; give its UID",
            reason="several_series",
        )
    readable = [match for match in matches if match.verdict.readable]
    if not readable:
        raise StudyError(
            f"{where}: series {wanted!r} cannot be read: {matches[0].verdict.reason}",
            reason="no_ct",
        )
    chosen = max(readable, key=lambda match: match.slices)
    notes = [f"{_label(chosen)} read as asked for"]
    if not chosen.verdict.eligible:
        notes.append(f"this series is {chosen.verdict.reason}: the model was made for axial slices")
    return chosen, notes


def _check_uids_differ(found: list[Candidate], where: str) -> None:
    """Refuse series of several studies that no UID can tell apart."""
    if len({candidate.uid for candidate in found}) == 1:
        raise SeriesError(
            f"{where}: {_label(found[0])} has the same UID in several studies, so --series cannot "
            "choose one; point STUDY to the folder of one study",
            reason="several_studies",
        )


def _matching(found: list[Candidate], wanted: str) -> list[Candidate]:
    """Match a whole UID; otherwise a plain number is a series number, other text a UID's start."""
    by_uid = [c for c in found if wanted and c.uid == wanted]
    if by_uid:
        return by_uid
    if wanted.isdecimal():  # never also the start of a UID: nearly all begin with 1 or 2
        return [c for c in found if c.number == int(wanted)]
    return [c for c in found if wanted and c.uid.startswith(wanted)]


def _label(candidate: Candidate) -> str:
    """Number and description for notes and messages, without what identifies the patient."""
    number = "without number" if candidate.number is None else str(candidate.number)
    description = scrubbed(candidate.description, candidate.first)
    return f"series {number} '{description}'" if description else f"series {number}"


def _labels(found: list[Candidate]) -> str:
    return ", ".join(sorted({_label(candidate) for candidate in found})[:8]) or "none"


def _choices(found: list[Candidate]) -> str:
    """Labels, with the UID if the number does not distinguish a series from others."""
    numbers = [candidate.number for candidate in found]
    return "; ".join(
        sorted(
            _label(each) if numbers.count(each.number) == 1 else f"{_label(each)}, {each.uid}"
            for each in found
        )
    )


def _uids(found: list[Candidate]) -> str:
    return ", ".join(sorted({candidate.uid for candidate in found})[:8])


def _reasons(found: list[Candidate]) -> str:
    shown = [f"{_label(c)}: {c.verdict.reason}" for c in found[:4]]
    return "; ".join(shown) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
