"""One way to ask a model, whether it is a checkpoint in torch or an exported bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samihs_runtime.segmentation import FOREGROUND, NOT_A_POINT, Prompt
from samihs_training.data.targets import Mask

Clicks = Sequence[tuple[float, float]]
Answer = Callable[[NDArray[np.int16], Clicks], list[tuple[Mask, float]]]
"""A slice [rows, columns] in HU, clicks (x, y) -> for each a mask [rows, columns] and a score."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that answers clicks."""

    name: str
    answer: Answer
    score_threshold: float | None
    """Below it the model says that nothing bleeds there; None where nothing has fixed it."""


@contextmanager
def checkpoint_predictor(adapters: Path, base: Path) -> Iterator[Predictor]:
    """The torch model of an adapter checkpoint, adapters in place."""
    from samihs_training.checkpoint import load_adapters
    from samihs_training.model import mask_at_slice_size

    loaded = load_adapters(adapters, base)
    window = torch.tensor([loaded.description["window"]], dtype=torch.float32)

    @torch.inference_mode()
    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
        size = hu.shape[-1]
        embedding = loaded.model.encode(torch.from_numpy(hu.astype(np.float32))[None, None], window)
        answers = []
        for click in clicks:
            points = torch.tensor([[click, (0.0, 0.0)]], dtype=torch.float32)
            labels = torch.tensor([[FOREGROUND, NOT_A_POINT]])
            logits, score = loaded.model.decode(embedding, points, labels, slice_size=size)
            answers.append((mask_at_slice_size(logits, size)[0, 0].numpy(), float(score[0])))
        return answers

    threshold = loaded.description.get("metrics", {}).get("score_threshold")
    yield Predictor(f"{adapters.name} on {base.name} (torch)", answer, threshold)


@contextmanager
def bundle_predictor(bundle: Path | None, backend: str = "auto") -> Iterator[Predictor]:
    """An exported bundle (None: the shipped one) through the runtime, as users get it."""
    from samihs_runtime.segmenter import Segmenter

    with Segmenter.from_bundle(bundle, backend) as segmenter:

        def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
            encoded = segmenter.encode(hu)
            predictions = [segmenter.predict(encoded, Prompt((each,), (1,))) for each in clicks]
            return [(each.mask, each.score) for each in predictions]

        manifest = segmenter.bundle.manifest
        name = f"{manifest.name} {manifest.version} ({backend} backend)"
        yield Predictor(name, answer, manifest.score_threshold)
