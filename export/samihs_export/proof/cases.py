"""The cases on which parity is judged: phantom slices, clicked on a bleed. No torch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.backends.contract import prior_feeds
from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.errors import BundleError
from samihs_runtime.interior import deepest_point
from samihs_runtime.segmentation import BACKGROUND, BOX_MIN, Prompt
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_slice

FIRST_SEED = 900_000
"""Parity's own seeds; training and evaluation draw from others."""
_MIN_SHARE = 1e-4
"""A bleed smaller than this share of the slice (26 pixels of 512 x 512) is not used."""
_PRIOR_LOGIT = 8.0
"""Logit inside a prior, and its negative outside: a mask that the model is sure of."""


@dataclass(frozen=True, eq=False)
class ParityCase:
    """One slice with one prompt, as the graphs take them, without the batch axis."""

    hu: NDArray[np.float32]
    """[S, S]."""
    window: NDArray[np.float32]
    """[2]: low and high HU."""
    points: NDArray[np.float32]
    """[N, 2] slice pixels."""
    labels: NDArray[np.int32]
    """[N]."""
    prior: NDArray[np.float32] | None
    """[M, M] logits, or None."""

    @property
    def prompt(self) -> str:
        """The kind of prompt, in words."""
        if self.prior is not None:
            return "a click with a prior"
        if BOX_MIN in self.labels:
            return "a box"
        return "two clicks" if BACKGROUND in self.labels else "a click"

    def slice_feeds(self) -> dict[str, NDArray[Any]]:
        """The encoder's inputs, with a batch axis of 1."""
        return {"hu": self.hu[None, None], "window": self.window[None]}

    def prompt_feeds(self, mask_size: int) -> dict[str, NDArray[Any]]:
        """The decoder's inputs except the embedding, with a batch axis of 1; ``mask_size``: M."""
        prior = None if self.prior is None else self.prior[None]
        prompt = {"points": self.points[None], "labels": self.labels[None]}
        return {**prompt, **prior_feeds(prior, 1, mask_size)}


@dataclass(frozen=True, eq=False)
class Answer:
    """What one implementation answers to one case."""

    logits: NDArray[np.floating[Any]]
    """[M, M], float32; float64 if the model is."""
    mask: NDArray[np.bool_]
    """[S, S]."""
    score: float
    embedding: NDArray[np.floating[Any]] | None = None
    """[E, G, G]; None if it was not kept."""


def phantom_cases(
    count: int, *, slice_size: int, mask_size: int, window: WindowRule, first_seed: int = FIRST_SEED
) -> list[ParityCase]:
    """``count`` cases, cycling through the five types of bleeding and the four kinds of prompt.

    Kinds: a click; a click with a background click; a box; a click with a prior mask.
    """
    kinds = [kind for kind in BleedType if kind is not BleedType.NONE]
    cases: list[ParityCase] = []
    seed = first_seed
    while len(cases) < count:
        options = PhantomOptions(
            matrix=slice_size, bleeds=(kinds[len(cases) % len(kinds)],), crossing_probability=1.0
        )
        phantom = generate_slice(seed, options)
        seed += 1
        bleed = _largest_part(phantom.bleeds > 0)
        if bleed.sum() >= _MIN_SHARE * bleed.size:
            hu = phantom.hu.astype(np.float32)
            points, labels = _prompt(bleed, len(cases) % 4).arrays()
            prior = _prior(bleed, mask_size) if len(cases) % 4 == 3 else None
            low_high = np.asarray(window_of(hu, window), np.float32)
            cases.append(ParityCase(hu, low_high, points, labels, prior))
    return cases


def save_reference(path: Path, cases: Sequence[ParityCase], answers: Sequence[Answer]) -> None:
    """Write cases with torch's answers, so that ``verify`` can repeat the check without torch.

    Phantom slices have integer HU, so int16 holds them.
    """
    arrays: dict[str, NDArray[np.generic]] = {"count": np.asarray(len(cases))}
    for index, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        fields: dict[str, NDArray[np.generic]] = {
            "hu": case.hu.astype(np.int16),
            "window": case.window,
            "points": case.points,
            "labels": case.labels,
            "prior": np.zeros((0, 0), np.float32) if case.prior is None else case.prior,
            "logits": answer.logits.astype(np.float32),
            "mask": answer.mask,
            "score": np.asarray(answer.score),
        }
        arrays |= {f"{index}/{name}": value for name, value in fields.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> tuple[list[ParityCase], list[Answer]]:
    """Read the file of :func:`save_reference`. Raises :class:`BundleError` if that fails."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            indices = range(int(arrays["count"]))
            cases = [_read_case({n: arrays[f"{i}/{n}"] for n in _CASE}) for i in indices]
            answers = [_read_answer({n: arrays[f"{i}/{n}"] for n in _ANSWER}) for i in indices]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path}: no parity reference can be read from it ({error}); export the bundle again"
        ) from error
    return cases, answers


_CASE = ("hu", "window", "points", "labels", "prior")
_ANSWER = ("logits", "mask", "score")


def _read_case(fields: dict[str, NDArray[np.generic]]) -> ParityCase:
    prior = fields["prior"].astype(np.float32)
    return ParityCase(
        fields["hu"].astype(np.float32),
        fields["window"].astype(np.float32),
        fields["points"].astype(np.float32),
        fields["labels"].astype(np.int32),
        prior if prior.size else None,
    )


def _read_answer(fields: dict[str, NDArray[np.generic]]) -> Answer:
    logits, mask = fields["logits"].astype(np.float32), fields["mask"].astype(np.bool_)
    return Answer(logits, mask, float(fields["score"].astype(np.float64)))


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == sizes.argmax()
    return largest


def _prompt(bleed: NDArray[np.bool_], kind: int) -> Prompt:
    click = deepest_point(bleed)
    if kind == 2:
        rows, columns = np.nonzero(bleed)
        corners = (columns.min(), rows.min(), columns.max(), rows.max())
        x0, y0, x1, y1 = (float(corner) for corner in corners)
        return Prompt(box=(x0, y0, x1, y1))
    if kind == 1:
        column, row = click
        away = ((column + bleed.shape[1] // 4) % bleed.shape[1], row)
        return Prompt(points=(click, away), labels=(1, 0))
    return Prompt(points=(click,), labels=(1,))


def _prior(bleed: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """[side, side] logits of a mask like the bleed, as the previous answer for a refining click."""
    share = ndimage.zoom(
        bleed.astype(np.float32),
        side / bleed.shape[0],
        order=1,
        mode="grid-constant",
        grid_mode=True,
    )
    return ((2 * share - 1) * _PRIOR_LOGIT).astype(np.float32)
