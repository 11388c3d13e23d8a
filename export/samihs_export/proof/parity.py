"""Gates: two implementations of one model must give the same answers to the same cases. No torch.

Each step of an export is compared with the one before it: the merged model with the adapted one,
ONNX Runtime with torch. A gate that fails raises :class:`ParityError`; the caller adds what to do
about it (:func:`advised`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_export.proof.cases import Answer, ParityCase
from samihs_export.proof.cpu_session import advice_for, cpu_session
from samihs_export.proof.gates import Gates
from samihs_runtime.backends.base import Backend
from samihs_runtime.errors import BackendError, ExportError, ParityError, one_line

NOT_IN_ONNX_RUNTIME = ("bf16",)
"""Precisions for which ONNX Runtime has no CPU kernels (1.32)."""


@dataclass(frozen=True)
class ParityResult:
    """One comparison over all cases."""

    name: str
    """What was compared with what."""
    cases: int
    mask_iou_mean: float
    mask_iou_min: float
    volume_relative: float
    score_difference: float
    """The largest over all cases."""
    logits_worst: float
    """Largest absolute difference of a logit."""
    logits_relative: float
    embedding_relative: float | None
    """None if the reference holds no embeddings."""

    def failures(self, gates: Gates) -> list[str]:
        """The gates that do not hold, in words; with NaN, none holds."""
        at_most = ("embedding_relative", "logits_relative", "score_difference", "volume_relative")
        at_least = ("mask_iou_mean", "mask_iou_min")
        failed = []
        for names, sign, words in ((at_most, 1, "at most"), (at_least, -1, "at least")):
            for name in names:
                value, limit = getattr(self, name), getattr(gates, name)
                if value is None or limit is None:
                    continue
                if not sign * value <= sign * limit:
                    failed.append(f"{name} {value:.3g}, expected {words} {limit:g}")
        return failed

    def require(self, gates: Gates, where: Callable[[], str] | None = None) -> None:
        """Raise :class:`ParityError` unless every gate holds.

        ``where``: called only on failure; describes the place where the two first differ.
        """
        failed = self.failures(gates)
        if failed:
            place = f"; {_place(where)}" if where else ""
            raise ParityError(
                f"{self.name} does not agree on {self.cases} slices: {'; '.join(failed)}{place}"
            )

    def summary(self) -> dict[str, Any]:
        """As stored in the manifest and ``parity.json``; six digits, for readability."""
        fields = dataclasses.asdict(self)
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in fields.items()
        }


def _place(where: Callable[[], str]) -> str:
    try:
        return where()
    except Exception as error:  # however the search ends, the failed gate must be reported
        return f"(the place could not be found: {type(error).__name__}: {one_line(error)})"


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """Context manager or decorator: append ``advice`` to the message of a gate that fails within.

    Raises:
        ParityError: with the advice.
    """
    try:
        yield
    except ParityError as error:
        raise ParityError(f"{error}; {advice}") from error


def compare(name: str, reference: Sequence[Answer], candidate: Sequence[Answer]) -> ParityResult:
    """Compare two implementations' answers to the same cases."""
    pairs = list(zip(reference, candidate, strict=True))
    ious = [mask_iou(ours.mask, theirs.mask) for ours, theirs in pairs]
    area = sum(int(answer.mask.sum()) for answer in reference)
    other = sum(int(answer.mask.sum()) for answer in candidate)
    embeddings = [
        relative_difference(theirs.embedding, ours.embedding)
        for ours, theirs in pairs
        if ours.embedding is not None and theirs.embedding is not None
    ]
    return ParityResult(
        name=name,
        cases=len(pairs),
        mask_iou_mean=float(np.mean(ious)),
        mask_iou_min=float(np.min(ious)),
        volume_relative=abs(other - area) / max(area, 1),
        score_difference=_worst([abs(theirs.score - ours.score) for ours, theirs in pairs]),
        logits_worst=_worst(
            [float(np.abs(theirs.logits - ours.logits).max()) for ours, theirs in pairs]
        ),
        logits_relative=_worst(
            [relative_difference(theirs.logits, ours.logits) for ours, theirs in pairs]
        ),
        embedding_relative=_worst(embeddings) if embeddings else None,
    )


def answers_of_onnx(
    encoder: Path | bytes, decoder: Path | bytes, cases: Sequence[ParityCase], threads: int = 2
) -> list[Answer]:
    """ONNX Runtime's answers on the CPU, which runs graphs of every family except in bfloat16.

    Graphs are files, or their content.

    Raises:
        ExportError: ONNX Runtime cannot load or run a graph.
        BackendError: ONNX Runtime is not installed.
    """
    try:
        sessions = [cpu_session(graph, threads) for graph in (encoder, decoder)]
        return [_ask_onnx(sessions[0], sessions[1], case) for case in cases]
    except BackendError:
        raise
    except Exception as error:  # onnxruntime's own classes derive from Exception
        where = "these" if isinstance(encoder, bytes) else f"{encoder.parent.name}'s"
        raise ExportError(
            f"onnxruntime cannot run {where} graphs: {one_line(error)}{advice_for(error)}"
        ) from error


def answers_of_backend(backend: Backend, cases: Sequence[ParityCase]) -> list[Answer]:
    """The answers of one of the runtime's backends, including engines, refitted or not."""
    answers = []
    for case in cases:
        embeddings = backend.encode(case.hu[None, None], case.window[None])
        prior = None if case.prior is None else case.prior[None]
        decoded = backend.decode(embeddings, case.points[None], case.labels[None], prior)
        embedding = embeddings[0].numpy()
        answers.append(
            Answer(decoded.logits[0], decoded.masks[0], float(decoded.scores[0]), embedding)
        )
    return answers


def _ask_onnx(encoder: Any, decoder: Any, case: ParityCase) -> Answer:
    embedding = encoder.run(["embedding"], case.slice_feeds())[0]
    side = next(each.shape[-1] for each in decoder.get_inputs() if each.name == "prior")
    feeds = {"embedding": embedding, **case.prompt_feeds(side)}
    logits, mask, score = decoder.run(["logits", "mask", "score"], feeds)
    return Answer(logits[0, 0], mask[0].astype(bool), float(score[0]), embedding[0])


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 if both are empty, since they then agree."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def relative_difference(
    value: NDArray[np.floating[Any]], reference: NDArray[np.floating[Any]]
) -> float:
    """Largest difference, relative to the reference's largest value; both have the same shape.

    NaN, which passes no gate, if a value is not finite.
    """
    exact = reference.astype(np.float64)
    return float(np.abs(value.astype(np.float64) - exact).max() / max(np.abs(exact).max(), 1e-30))


def _worst(values: Sequence[float]) -> float:
    return float(np.max(values))  # unlike max(), propagates NaN
