"""The trials of many studies, one after another: what each is, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from samihs_runtime.calibration.normal_clicks import Sampling, brain_slices, normal_clicks
from samihs_runtime.calibration.picture import AcceptedClicks
from samihs_runtime.calibration.trials import Trial, click_through
from samihs_runtime.console import Screen
from samihs_runtime.errors import NonFiniteError, StudyError, one_line
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries
from samihs_runtime.study import read_study

FEW_SLICES = 0.4
"""If a smaller share of a series shows brain, something is amiss with the skull."""


@dataclass(eq=False)
class StudyTrials:
    """Clicks on studies, and collects the trials."""

    segmenter: Segmenter
    sampling: Sampling
    wanted: str | None
    """UID or number of the series in each study; None for the one that the reader chooses."""
    screen: Screen
    accepted: AcceptedClicks
    trials: list[Trial] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    """Numbers of the studies that cannot be clicked on."""
    seen: dict[str, int] = field(default_factory=dict)
    """Series UID -> number of the study that it was in."""

    def click_through(self, studies: Sequence[Path]) -> None:
        """Click on each study; what cannot be read or answered is said and left out.

        Raises:
            BackendError: the device failed.
        """
        with self.screen.counting("clicking", "studies") as count:
            for number, path in enumerate(studies, start=1):
                count(number - 1, len(studies))
                try:
                    self.trials += self._trials(number, path)
                except (StudyError, NonFiniteError) as error:
                    self.left_out.append(number)
                    why = one_line(error)
                    self.screen.say(f"study {number} ({path}) is left out: {why}", "yellow")
            count(len(studies), len(studies))

    def _trials(self, number: int, path: Path) -> list[Trial]:
        series = read_study(path, series=self.wanted)
        first = self.seen.setdefault(series.series_uid, number)
        if first != number:
            raise StudyError(f"the same series as study {first}: heads must be different ones")
        shown = brain_slices(series)
        self._say_what_is_odd(number, series, len(shown))
        rng = np.random.default_rng([self.sampling.seed, number])
        clicks = normal_clicks(series, shown, self.sampling, rng)
        keep = partial(self.accepted.add, number, series)
        return click_through(self.segmenter, series, clicks, number, accepted=keep)

    def _say_what_is_odd(self, number: int, series: CTSeries, shown: int) -> None:
        for note in series.notes:
            self.screen.say(f"study {number}: {note}")
        if len(series) > 1 and shown < FEW_SLICES * len(series):
            self.screen.say(
                f"study {number}: only {shown} of {len(series)} slices show brain within a closed "
                "skull: is it open, as after a craniectomy, cut off, or of a neck as well?",
                "yellow",
            )
