"""The job that each row of a clicks file becomes in one run: its lesion number, its fingerprint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.batch.study_state import study_state
from samihs_runtime.report import installed_version

if TYPE_CHECKING:
    from samihs_runtime.batch.clicks import ClickRow
    from samihs_runtime.options import Options
    from samihs_runtime.segmenter import Segmenter


@dataclass(frozen=True)
class Job:
    """One click to answer."""

    row: ClickRow
    number: int
    """Which of the clicks on its study it is, from 1. It is written into the DICOM objects: no two
    clicks on a study in one file have the same."""
    request: str
    """As in the table: a hash of the request, the number, the study's files and the settings."""


def jobs_of(rows: list[ClickRow], options: Options, segmenter: Segmenter) -> list[Job]:
    """The jobs, in the file's order; each study's files are examined once."""
    settings = _settings(options, segmenter)
    numbers = _lesion_numbers(rows)
    places = {row.click.study for row in rows}
    states = {place: study_state(place, options.out) for place in places}
    jobs = []
    for row in rows:
        number, state = numbers[row.id], states[row.click.study]
        request = _mixed(row.fingerprint, str(number), state, settings) if state else ""
        jobs.append(Job(row, number, request))
    return jobs


def _lesion_numbers(rows: Iterable[ClickRow]) -> dict[str, int]:
    """Id -> which of the clicks on its study it is, from 1, in the file's order."""
    counts: Counter[Path] = Counter()
    numbers = {}
    for row in rows:
        study = row.click.study.absolute()
        counts[study] += 1
        numbers[row.id] = counts[study]
    return numbers


def _settings(options: Options, segmenter: Segmenter) -> str:
    """Everything that a result depends on besides the click and its study."""
    write = options.write
    chosen = (options.propagation, sorted(options.formats), write.fractional, write.resample)
    model = f"{segmenter.bundle.id}|{segmenter.backend.precision}|{segmenter.score_threshold}"
    # Another version may measure or write differently.
    return f"{installed_version()}|{model}|{chosen}|{write.identify}|{write.deidentify}"


def _mixed(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
