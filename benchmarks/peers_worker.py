"""One subject of ``peers.py``: executes each line of its input and answers in JSON.

``encode``, ``batch N`` and ``click N`` return the seconds they took, ``memory`` the peak resident
MB; ``logits FILE`` writes the logits of one click, always the same, to compare subjects' answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from peers_inputs import points_of, slice_of
from stopwatch import peak_mb, seconds


class Subject(Protocol):
    """The implementation that is measured."""

    def encode(self, turn: int) -> None:
        """Embed a slice, different from the last one."""

    def click(self, count: int, turn: int) -> None:
        """Masks at the slice's size for ``count`` prompts on the last slice."""

    def logits(self, turn: int) -> np.ndarray:
        """Low-resolution logits [M, M] of the first click on the last slice."""


class Runtime:
    """This project's runtime; torch is never loaded."""

    def __init__(self, folder: Path, precision: str) -> None:
        from samihs_runtime.segmenter import Segmenter

        self.segmenter = Segmenter.from_bundle(folder / f"bundle-{precision}", "cpu")
        self.encoded: Any = None

    def encode(self, turn: int) -> None:
        self.encoded = self.segmenter.encode(slice_of(turn))

    def encode_all(self, count: int, turn: int) -> None:
        """Embed a batch of new slices."""
        slices = [slice_of(10_000 + turn * count + each) for each in range(count)]
        self.segmenter.encoder.encode(slices, background=False)

    def click(self, count: int, turn: int) -> None:
        from samihs_runtime.segmentation import FOREGROUND, Prompt

        prompts = [Prompt(((x, y),), (FOREGROUND,)) for x, y in points_of(count, turn).tolist()]
        self.segmenter.predict_batch([self.encoded] * count, prompts)

    def logits(self, turn: int) -> np.ndarray:
        from samihs_runtime.segmentation import FOREGROUND, Prompt

        x, y = points_of(1, turn)[0].tolist()
        return self.segmenter.predict(self.encoded, Prompt(((x, y),), (FOREGROUND,))).logits


def _subject(folder: Path, name: str) -> Subject:
    """The subject of this name, as listed in ``peers.py``; rivals' code is loaded only here."""
    family, _, manner = name.partition(" ")
    if family == "samihs":
        return Runtime(folder, manner)
    if family == "transformers":
        from peers_transformers import Transformers

        return Transformers(folder)
    if family == "MobileSAM":
        from peers_copies import mobile_sam

        return mobile_sam(folder)
    if family == "segment-anything-fast":
        from peers_copies import segment_anything_fast

        return segment_anything_fast(folder)
    from peers_predictor import OnnxDecoder, eager

    return eager(folder, manner) if family == "SamPredictor" else OnnxDecoder(folder)


def _batch(subject: Subject, count: int, turn: int) -> None:
    """Encode ``count`` slices, in one call if the subject offers one."""
    if isinstance(subject, Runtime):
        subject.encode_all(count, turn)
        return
    for each in range(count):
        subject.encode(turn * count + each)


def _write_logits(subject: Subject, path: Path) -> float:
    """Write the logits of turn 0; returns the seconds it took."""
    subject.encode(0)
    return seconds(lambda: np.save(path, subject.logits(0)))


def main() -> None:
    """Answer requests until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with answers
    subject = _subject(Path(sys.argv[1]), sys.argv[2])
    for turn, line in enumerate(sys.stdin):
        word, *rest = line.split()
        what: dict[str, Callable[[], Any]] = {
            "encode": lambda turn=turn: seconds(lambda: subject.encode(turn)),
            "batch": lambda turn=turn, rest=rest: seconds(
                lambda: _batch(subject, int(rest[0]), turn)
            ),
            "click": lambda turn=turn, rest=rest: seconds(
                lambda: subject.click(int(rest[0]), turn)
            ),
            "logits": lambda rest=rest: _write_logits(subject, Path(" ".join(rest))),
            "memory": peak_mb,
        }
        print(json.dumps(what[word]()), file=answers, flush=True)


if __name__ == "__main__":
    main()
