"""Prompt rules by name: how to point at a mask, for training and for testing.

A rule turns a non-empty mask [rows, columns] and a random generator into a
:class:`~samihs_runtime.segmentation.Prompt`; points are (column, row), pixel centres at integers.
``hand`` is the default in training, ``random`` the authors' training prompt, ``middle`` their test
prompt. Corrections that follow a first prompt are in :mod:`samihs_training.stages.corrections`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from samihs_runtime.errors import UsageError
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt
from samihs_training.data.clicks import Mask, Point, deepest_click, hand_click, random_click
from samihs_training.options import with_options

DECOY_RADIUS_PX = (3.0, 15.0)
"""Radius of the imagined lesion where nothing bleeds: 1.5 to 7 mm on a head CT of 512 x 512."""


class PromptRule(Protocol):
    """A way to point at a mask, or at a place where nothing bleeds."""

    @property
    def count(self) -> int:
        """Points per prompt, not counting box corners; fewer only if a mask has too few pixels."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The prompt; ``mask`` [rows, columns] holds at least one pixel."""

    def elsewhere(self, click: Point, free: Mask, rng: np.random.Generator) -> Prompt:
        """A prompt where nothing bleeds: at ``click``, within ``free`` [rows, columns]."""


class OneClick:
    """Base of the rules of one click: where nothing bleeds, the prompt is the given click."""

    @property
    def count(self) -> int:
        """One."""
        return 1

    def elsewhere(self, click: Point, free: Mask, rng: np.random.Generator) -> Prompt:
        """The click."""
        return Prompt((click,), (FOREGROUND,))


class AroundDecoy(ABC):
    """Base of the other rules: where nothing bleeds, they point as if a lesion were there."""

    @abstractmethod
    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        """The prompt of a mask."""

    def elsewhere(self, click: Point, free: Mask, rng: np.random.Generator) -> Prompt:
        """The prompt for a disk around the click, cut to what is free."""
        rows, columns = np.ogrid[: free.shape[0], : free.shape[1]]
        radius = rng.uniform(*DECOY_RADIUS_PX)
        disk = (columns - click[0]) ** 2 + (rows - click[1]) ** 2 <= radius**2
        return self(disk & free, rng)


@dataclass(frozen=True)
class HandClick(OneClick):
    """One click as a person makes it: inside, mostly well inside, off by a pixel or two."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        return Prompt((hand_click(mask, rng),), (FOREGROUND,))


@dataclass(frozen=True)
class RandomPixel(OneClick):
    """One foreground pixel, each as likely as any other."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        return Prompt((random_click(mask, rng),), (FOREGROUND,))


@dataclass(frozen=True)
class MiddlePixel(OneClick):
    """The middle one of the foreground pixels in row order: element n // 2 of n, as the authors do.

    It need not be deep inside, nor in the largest part of the mask.
    """

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        flat = np.flatnonzero(mask)
        row, column = divmod(int(flat[len(flat) // 2]), mask.shape[1])
        return Prompt(((float(column), float(row)),), (FOREGROUND,))


@dataclass(frozen=True)
class DeepestPoint(OneClick):
    """The pixel that lies farthest from the mask's edge; the image's edge counts as one."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        return Prompt((deepest_click(mask),), (FOREGROUND,))


@dataclass(frozen=True)
class SeveralPoints(AroundDecoy):
    """``count`` different foreground pixels; all of them if the mask has fewer."""

    count: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"prompt points: count {self.count}: expected 1 or more")

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        points = _pixels(mask, self.count, rng)
        return Prompt(points, (FOREGROUND,) * len(points))


@dataclass(frozen=True)
class PositiveNegative(AroundDecoy):
    """Foreground pixels, and background pixels near the lesion, where a person would correct."""

    positives: int = 1
    negatives: int = 1
    reach: int = 20
    """Negatives lie at most this many pixels from the mask, and at least 2: any nearer, the outline
    itself is in doubt."""

    def __post_init__(self) -> None:
        if self.positives < 1 or self.negatives < 0 or self.reach < 3:
            raise UsageError(
                f"prompt mixed: positives {self.positives}, negatives {self.negatives}, reach "
                f"{self.reach}: expected at least 1, 0 and 3"
            )

    @property
    def count(self) -> int:
        """Points of both kinds."""
        return self.positives + self.negatives

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        inside = _pixels(mask, self.positives, rng)
        distance = ndimage.distance_transform_edt(~mask)
        around = _pixels((distance >= 2) & (distance <= self.reach), self.negatives, rng)
        labels = (FOREGROUND,) * len(inside) + (BACKGROUND,) * len(around)
        return Prompt(inside + around, labels)


@dataclass(frozen=True)
class JitteredBox(AroundDecoy):
    """The bounding box, its edges moved by noise, as segment-anything was trained
    (arXiv 2304.02643, appendix A)."""

    jitter: float = 0.1
    """Standard deviation, as a share of the box's side."""
    most: float = 20.0
    """Upper bound of an edge's displacement, pixels."""

    def __post_init__(self) -> None:
        if self.jitter < 0 or self.most < 0:
            raise UsageError(
                f"prompt box: jitter {self.jitter}, most {self.most}: expected 0 or more"
            )

    @property
    def count(self) -> int:
        """No points besides the corners."""
        return 0

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)
        # Half a pixel outward: the edges of the outer pixels, and never an empty box.
        box += (-0.5, -0.5, 0.5, 0.5)
        sides = np.tile(box[2:] - box[:2], 2)
        box += np.clip(rng.normal(0, 1, 4) * self.jitter * sides, -self.most, self.most)
        limit = np.array(mask.shape[::-1], np.float64) - 0.51
        low = np.clip(np.minimum(box[:2], box[2:]), -0.5, limit - 1)
        high = np.clip(np.maximum(box[:2], box[2:]), low + 1, limit)
        return Prompt(box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])))


PROMPTS: dict[str, Callable[..., PromptRule]] = {
    "hand": HandClick,
    "random": RandomPixel,
    "middle": MiddlePixel,
    "deepest": DeepestPoint,
    "points": SeveralPoints,
    "mixed": PositiveNegative,
    "box": JitteredBox,
}
"""Name -> frozen dataclass; its fields are the rule's options."""


def prompt_rule(name: str, *, noise_px: float = 0.0, **options: Any) -> PromptRule:
    """The rule of that name; with ``noise_px``, a :class:`NoisyClicks` around it.

    Raises:
        UsageError: no such rule, an option that it does not have, or a value out of range.
    """
    if name not in PROMPTS:
        raise UsageError(f"prompt {name!r}: expected one of {', '.join(PROMPTS)}")
    rule = with_options(PROMPTS[name], options, f"prompt {name}")
    return NoisyClicks(rule, noise_px) if noise_px else rule


@dataclass(frozen=True)
class NoisyClicks:
    """A rule whose points are off by a few pixels, as a hand's are."""

    rule: PromptRule
    sigma_px: float
    """Standard deviation along each axis, pixels."""

    def __post_init__(self) -> None:
        if self.sigma_px < 0:
            raise UsageError(f"click noise {self.sigma_px} px: expected 0 or more")

    @property
    def count(self) -> int:
        """The rule's number of points."""
        return self.rule.count

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Prompt:
        return self._noisy(self.rule(mask, rng), mask, rng)

    def elsewhere(self, click: Point, free: Mask, rng: np.random.Generator) -> Prompt:
        """The rule's prompt, its foreground points moved within what is free."""
        return self._noisy(self.rule.elsewhere(click, free, rng), free, rng)

    def _noisy(self, prompt: Prompt, mask: Mask, rng: np.random.Generator) -> Prompt:
        points = tuple(
            self._moved(point, label, mask, rng)
            for point, label in zip(prompt.points, prompt.labels, strict=True)
        )
        return replace(prompt, points=points)

    def _moved(self, point: Point, label: int, mask: Mask, rng: np.random.Generator) -> Point:
        """The point with noise, rounded to a pixel; unmoved if that would change its meaning.

        A click on the other side of the outline would ask for another mask than the target.
        """
        x, y = (round(float(at + rng.normal(0, self.sigma_px))) for at in point)
        rows, columns = mask.shape
        inside = 0 <= y < rows and 0 <= x < columns
        if not inside or bool(mask[y, x]) != (label == FOREGROUND):
            return point
        return float(x), float(y)


def filled(prompt: Prompt, count: int) -> Prompt:
    """The prompt with ``count`` points: if it has fewer, its own are repeated in turn.

    For a batch, whose prompts must have the same number of points. SAM's pad would be another way
    to fill them up, but each further pad changes the answer.
    """
    missing = range(len(prompt.points), count) if prompt.points else ()
    again = [place % len(prompt.points) for place in missing]
    points = prompt.points + tuple(prompt.points[place] for place in again)
    labels = prompt.labels + tuple(prompt.labels[place] for place in again)
    return replace(prompt, points=points, labels=labels)


def _pixels(mask: Mask, count: int, rng: np.random.Generator) -> tuple[Point, ...]:
    """At most ``count`` different pixels of the mask."""
    flat = np.flatnonzero(mask)
    chosen = rng.choice(flat, min(count, len(flat)), replace=False)
    rows, columns = np.unravel_index(chosen, mask.shape)
    return tuple((float(x), float(y)) for x, y in zip(columns, rows, strict=True))
