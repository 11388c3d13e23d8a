"""``--clicks FILE.json``: many lesions, in one study or in many.

::

    {"clicks": [
      {"id": "p01-left", "study": "p01.zip", "points": [[301, 260, 14]]},
      {"id": "p02", "study": "p02", "series": "3", "mm": true, "points": ["12.5,-31,88"],
       "negatives": ["30,-31,88"]},
      {"id": "p03", "study": "p03", "slice": 9, "box": [210, 180, 260, 240]}
    ]}

Paths are relative to the file. A row without ``id`` is named by its position in the list.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samihs_runtime.errors import PromptError, UsageError
from samihs_runtime.options import Click
from samihs_runtime.patient_points import parse_patient_request
from samihs_runtime.prompts import parse_request

KEYS = ("id", "study", "series", "points", "negatives", "box", "slice", "mm")
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
"""An id names a folder: no separators, no leading dot, no more than 64 characters."""
TABLE_NAME = "clicks.csv"
"""The results table, next to the folders: no id may have this name."""
MOST_CLICKS = 100_000


@dataclass(frozen=True)
class ClickRow:
    """One row of the file."""

    id: str
    click: Click
    fingerprint: str
    """16 hexadecimal digits of the sha256 of everything that was asked."""


def read_clicks(path: Path, study: Path | None = None) -> list[ClickRow]:
    """The rows of a clicks file, checked before any work begins.

    Args:
        path: the file.
        study: the study of rows that name none.

    Raises:
        UsageError: no such file, or its form is wrong; names the row and what is wrong with it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors write a BOM
    except OSError as error:
        raise UsageError(f"cannot read {path.name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 text: save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name} is no JSON ({error})") from error
    entries = document.get("clicks") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not 0 < len(entries) <= MOST_CLICKS:
        raise UsageError(
            f'{path.name}: expected {{"clicks": [...]}} with 1 to {MOST_CLICKS} clicks'
        )
    width = len(str(len(entries)))
    rows = []
    for number, entry in enumerate(entries, start=1):
        try:
            rows.append(_row(entry, f"{number:0{width}}", path.parent, study))
        except (PromptError, UsageError) as error:
            raise UsageError(f"{path.name}, click {number}: {error}") from error
    _refuse_twins(rows, path)
    return rows


def _row(entry: Any, number: str, folder: Path, study: Path | None) -> ClickRow:
    if not isinstance(entry, dict):
        raise UsageError("expected an object")
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise UsageError(f"unknown {', '.join(unknown)}; expected some of {', '.join(KEYS)}")
    given = _name(entry, "id")
    name = number if given is None else given
    if not SAFE_ID.fullmatch(name):
        raise UsageError(f"id {name!r}: expected letters, digits, '.', '_' and '-', at most 64")
    if name.lower() == TABLE_NAME:
        raise UsageError(f"id {name!r} is the name of the results table; choose another")
    where = _study(entry, folder, study)
    series = _name(entry, "series")
    mm = entry.get("mm", False)
    if not isinstance(mm, bool):
        raise UsageError(f"mm {mm!r}: expected true or false")
    parse = parse_patient_request if mm else parse_request
    request = parse(
        _points(entry, "points"), _points(entry, "negatives"), _box(entry), _slice(entry)
    )
    asked = f"{where.absolute()}|{series}|{request!r}"
    # A path's bytes that are not UTF-8 are surrogates in it.
    fingerprint = hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()[:16]
    return ClickRow(name, Click(where, series, request), fingerprint)


def _study(entry: dict[str, Any], folder: Path, study: Path | None) -> Path:
    """The row's own study, or else that of the command line."""
    if "study" in entry:
        given = entry["study"]
        if not isinstance(given, str) or not given:
            raise UsageError(f"study {given!r}: expected a path as text")
        return folder / given
    if study is None:
        raise UsageError("no study: name one here, or give STUDY on the command line")
    return study


def _name(entry: dict[str, Any], key: str) -> str | None:
    """A text or a whole number, as text; None if the row has none."""
    given = entry.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise UsageError(f"{key} {given!r}: expected a text or a whole number")
    return str(given)


def _points(entry: dict[str, Any], key: str) -> list[str]:
    given = entry.get(key, [])
    if not isinstance(given, list):
        raise UsageError(f"{key}: expected a list of points")
    return [_numbers_text(each, key) for each in given]


def _box(entry: dict[str, Any]) -> str | None:
    return None if entry.get("box") is None else _numbers_text(entry["box"], "box")


def _slice(entry: dict[str, Any]) -> int | None:
    given = entry.get("slice")
    if given is not None and (isinstance(given, bool) or not isinstance(given, int)):
        raise UsageError(f"slice {given!r}: expected a whole number")
    return given


def _numbers_text(value: Any, key: str) -> str:
    """``[1, 2]`` or ``"1,2"`` as the command line has it: ``1,2``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(each) in (int, float) for each in value):
        return ",".join(map(repr, value))
    raise UsageError(f"{key}: {value!r}; expected numbers, as [x, y] or 'x,y'")


def _refuse_twins(rows: list[ClickRow], path: Path) -> None:
    """Some file systems take ``a`` and ``A`` for one folder."""
    counts = Counter(row.id.lower() for row in rows)
    twins = [row.id for row in rows if counts[row.id.lower()] > 1]
    if twins:
        other = next(name for name in twins[1:] if name.lower() == twins[0].lower())
        twice = f"the id {other} is given twice"
        if other != twins[0]:
            twice = f"the ids {twins[0]} and {other} are the same, as case does not count"
        raise UsageError(f"{path.name}: {twice}; each needs its own folder")
