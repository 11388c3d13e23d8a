"""One interface to a model, whether it is a checkpoint in torch or an exported bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from samihs_runtime.clicked_parts import clicked_parts
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.geometry import aspect_of
from samihs_runtime.segmentation import FOREGROUND, Prediction, Prompt
from samihs_training.data.clicks import Mask

Clicks = Sequence[tuple[float, float]]
Answer = Callable[[NDArray[np.int16], Clicks], list[tuple[Mask, float]]]
"""A slice [rows, columns] in HU, clicks (x, y) -> for each a mask [rows, columns] and a score.

The mask holds only the clicked parts of the model's answer, as ``samihs-infer`` draws them."""


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer to one prompt."""

    mask: Mask
    """[rows, columns], as the slice."""
    score: float
    logits: NDArray[np.float32]
    """[M, M], covering the whole slice, padded to a square."""


class Ask(Protocol):
    """Answers any prompt on a slice [rows, columns] in HU."""

    def __call__(
        self,
        hu: NDArray[np.float32],
        prompt: Prompt,
        prior: NDArray[np.float32] | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> Reply:
        """``prior``: logits of an earlier reply that the prompt refines, on the same slice.

        ``spacing_mm``: between rows, between columns; None if the pixels are square.
        """


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that answers clicks."""

    name: str
    answer: Answer
    score_threshold: float | None
    """A score below it means that nothing bleeds there; None if the model has no threshold."""
    ask: Ask | None = None
    """Answers any prompt; None if the predictor takes clicks only."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Which weights: ``adapters_sha256`` and ``base_sha256``, for a bundle its ``bundle_id``, and
    ``mirrored`` "yes" if it also predicts on each slice's mirror image."""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    """The data set and folds it was adapted to (``training_data.py``); empty: phantoms, and no
    patient of whom nobody knows."""
    threshold_is: str = "measured"
    """``measured``, ``given`` or ``not measured``, as a manifest says it of its threshold."""


@contextmanager
def checkpoint_predictor(
    adapters: Path, base: Path, *, mirrored: bool = False
) -> Iterator[Predictor]:
    """The torch model of an adapter checkpoint, with its adapters in place.

    It sees slices at the size at which its bundle will see them.
    """
    from samihs_training.checkpoints.checkpoint import load_adapters
    from samihs_training.network.model import mask_at_slice_size

    loaded = load_adapters(adapters, base)
    model = loaded.model.mirrored() if mirrored else loaded.model
    last: list[tuple[NDArray[Any], torch.Tensor]] = []  # the slice that was encoded last

    def encoded(hu: NDArray[Any], frame: SliceFrame) -> torch.Tensor:
        if not last or last[0][0] is not hu:
            stored = hu.astype(np.float32)
            window = torch.tensor([window_of(stored, loaded.window)], dtype=torch.float32)
            pixels = torch.from_numpy(frame.slice_to_model(stored))[None, None]
            last[:] = [(hu, model.encode(pixels, window))]
        return last[0][1]

    @torch.inference_mode()
    def ask(
        hu: NDArray[Any],
        prompt: Prompt,
        prior: NDArray[np.float32] | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> Reply:
        aspect = aspect_of(spacing_mm) if spacing_mm else 1.0
        frame = SliceFrame(hu.shape[0], hu.shape[1], loaded.slice_size, aspect)
        points, labels = prompt.arrays()
        logits, score = model.decode(
            encoded(hu, frame),
            torch.from_numpy(frame.points_to_model(points))[None],
            torch.from_numpy(labels)[None],
            None if prior is None else torch.from_numpy(prior)[None, None],
            slice_size=frame.size,
        )
        low = logits[0, 0].numpy()
        mask = frame.mask_to_slice(low, mask_at_slice_size(logits, frame.size)[0, 0].numpy())
        return Reply(mask, float(score[0]), low)

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
        return _answers(partial(ask, hu), clicks)

    threshold = loaded.description.get("metrics", {}).get("score_threshold")
    weights = {"adapters_sha256": loaded.adapter_sha256, "base_sha256": loaded.base_sha256}
    if mirrored:
        weights["mirrored"] = "yes"
    data = loaded.description.get("data", {})
    name = f"{adapters.name} on {base.name} (torch)"
    yield Predictor(name, answer, threshold, ask, weights, data)


@contextmanager
def bundle_predictor(bundle: Path | None, backend: str = "auto") -> Iterator[Predictor]:
    """An exported bundle (None: the shipped one), run as users run it."""
    from samihs_runtime.segmenter import Segmenter

    with Segmenter.from_bundle(bundle, backend) as segmenter:

        def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
            return _answers(partial(segmenter.predict, segmenter.encode(hu)), clicks)

        def ask(
            hu: NDArray[np.float32],
            prompt: Prompt,
            prior: NDArray[np.float32] | None = None,
            spacing_mm: tuple[float, float] | None = None,
        ) -> Reply:
            reply = segmenter.predict(segmenter.encode(hu, spacing_mm), prompt, prior)
            return Reply(reply.mask, reply.score, reply.logits)

        manifest = segmenter.bundle.manifest
        name = f"{manifest.name} {manifest.version} ({backend} backend)"
        weights = {"bundle_id": segmenter.bundle.id}
        for key in ("adapters_sha256", "base_sha256"):
            if key in manifest.provenance:
                weights[key] = manifest.provenance[key]
        if manifest.mirrored:
            weights["mirrored"] = "yes"
        data = manifest.provenance.get("data", {})
        origin = manifest.provenance.get("score_threshold", Predictor.threshold_is)
        yield Predictor(name, answer, manifest.score_threshold, ask, weights, data, origin)


def _answers(
    predict: Callable[[Prompt], Reply | Prediction], clicks: Clicks
) -> list[tuple[Mask, float]]:
    """The answer to each click alone: the clicked parts of the mask, and its score."""
    answers = []
    for click in clicks:
        prompt = Prompt((click,), (FOREGROUND,))
        reply = predict(prompt)
        answers.append((clicked_parts(reply.mask, prompt), reply.score))
    return answers
