"""One row of the GPU benchmark: a backend of the runtime, in a process without torch.

    python benchmarks/gpu_runtime.py WORK BACKEND PRECISION

BACKEND is one of the runtime's, or "cuda-graph" or "cuda-plain": ONNX Runtime CUDA with CUDA
graphs, as in the runtime, and without them. "cuda-graph" is not measured if no graph is replayed.
"Cold start" is importing, opening, one encode and the first mask. Then everything is warmed up
once, before anything else is timed. A click is timed from the prompt in host memory to the mask in
host memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

import numpy as np  # noqa: E402
from gpu_work import (  # noqa: E402
    BRIEF,
    CLICK_PROMPTS,
    ENCODE_BATCHES,
    FULL,
    WINDOW,
    Effort,
    Work,
    device_memory_mb,
    measure,
    memory_taken_mb,
    prompt_arrays,
)

from samihs_runtime.backends.device_backend import DeviceBackend  # noqa: E402
from samihs_runtime.bundle import Bundle  # noqa: E402
from samihs_runtime.errors import BackendError, SamihsError  # noqa: E402
from samihs_runtime.segmentation import Prompt  # noqa: E402
from samihs_runtime.segmenter import Segmenter  # noqa: E402
from samihs_runtime.study import read_study  # noqa: E402
from samihs_runtime.timing import Timings  # noqa: E402

CUDA_ROWS = {"cuda-graph": True, "cuda-plain": False}
"""Rows of ONNX Runtime CUDA -> whether they use CUDA graphs."""


def main() -> None:
    """Measure, and write figures and answers beside the parent's files."""
    folder, backend, precision = sys.argv[1:]
    work = Work(Path(folder))
    row = f"{backend} {precision}"
    effort = BRIEF if work.read_settings()["brief"] else FULL
    try:
        figures = _figures(work, row, backend, precision, effort)
    except SamihsError as error:
        figures = {"not_measured": str(error)}
    work.figures(row).write_text(json.dumps(figures))


def _figures(work: Work, row: str, backend: str, precision: str, effort: Effort) -> dict[str, Any]:
    imports = time.perf_counter() - STARTED
    before = device_memory_mb()
    began = time.perf_counter()
    with open_segmenter(work.bundle(precision), backend) as segmenter:
        size = segmenter.bundle.manifest.slice_size
        prompt = Prompt(((size / 2, size / 2),), (1,))
        encoded = segmenter.encode(np.zeros((size, size), np.float32))
        segmenter.predict(encoded, prompt)
        cold = imports + time.perf_counter() - began
        warm_up(segmenter, backend)
        figures: dict[str, Any] = {
            "runs_on": segmenter.backend.description,
            "cold_start_s": cold,
            "encode": {str(b): _encode(segmenter, size, b, effort) for b in ENCODE_BATCHES},
            "click": {str(n): _click(segmenter, encoded, n, effort) for n in CLICK_PROMPTS},
        }
        figures["device_memory_mb"] = memory_taken_mb(before)
        _answer_cases(segmenter, work, row)
    figures["series_s"] = _series(work, backend, precision)
    return figures


def open_segmenter(bundle: Path, backend: str) -> Segmenter:
    """A segmenter on the backend of a row.

    Raises:
        BackendError: the backend cannot run.
    """
    if backend not in CUDA_ROWS:
        return Segmenter.from_bundle(bundle, backend)
    from samihs_runtime.backends.onnx_cuda import open_cuda

    opened, timings = Bundle.open(bundle), Timings()
    made = open_cuda(opened, timings, cuda_graphs=CUDA_ROWS[backend])
    return Segmenter(opened, made, timings=timings)


def warm_up(segmenter: Segmenter, backend: str) -> None:
    """Capture every graph, so that no first run is timed.

    Raises:
        BackendError: no CUDA graphs are replayed in the row that is named for them.
    """
    segmenter.warm_up()
    made = segmenter.backend
    if CUDA_ROWS.get(backend) and isinstance(made, DeviceBackend):
        without = {part: use.refusal for part, use in made.graphs.items() if not use.shapes}
        if without:
            words = "; ".join(f"{part}: {refusal}" for part, refusal in without.items())
            raise BackendError(f"CUDA graphs are not replayed: {words}")


def _encode(segmenter: Segmenter, size: int, batch: int, effort: Effort) -> list[float]:
    hu = np.random.default_rng(0).uniform(-20, 100, (batch, 1, size, size)).astype(np.float32)
    window = np.tile(np.asarray(WINDOW, np.float32), (batch, 1))
    return measure(lambda: segmenter.backend.encode(hu, window), effort)


def _click(segmenter: Segmenter, encoded: Any, count: int, effort: Effort) -> list[float]:
    """``count`` prompts in one run of the decoder, at other places each time."""
    size, turn = segmenter.bundle.manifest.slice_size, iter(range(10**9))

    def click() -> None:
        points, _ = prompt_arrays(size, count, next(turn))
        prompts = [Prompt(((float(x), float(y)),), (1,)) for x, y in points[:, 0]]
        segmenter.predict_batch([encoded] * count, prompts)

    return measure(click, effort)


def _answer_cases(segmenter: Segmenter, work: Work, row: str) -> None:
    answers: dict[str, list[Any]] = {"embedding": [], "logits": [], "mask": [], "score": []}
    with np.load(work.cases) as cases:
        for hu, points, labels in zip(cases["hu"], cases["points"], cases["labels"], strict=True):
            window = np.asarray([WINDOW], np.float32)
            embeddings = segmenter.backend.encode(hu[None, None], window)
            decoded = segmenter.backend.decode(embeddings, points, labels, None)
            answers["embedding"].append(embeddings[0].numpy())
            answers["logits"].append(decoded.logits[0])
            answers["mask"].append(decoded.masks[0])
            answers["score"].append(decoded.scores[0])
    np.savez(work.answers(row), **{name: np.stack(each) for name, each in answers.items()})


def _series(work: Work, backend: str, precision: str) -> float:
    """Seconds from the DICOM folder to all embeddings, with a warmed-up segmenter."""
    with open_segmenter(work.bundle(precision), backend) as segmenter:
        warm_up(segmenter, backend)
        size = segmenter.bundle.manifest.slice_size
        for batch in (1, segmenter.backend.encode_batch):
            for _ in range(3):
                hu = np.zeros((batch, 1, size, size), np.float32)
                segmenter.backend.encode(hu, np.tile(np.asarray(WINDOW, np.float32), (batch, 1)))
        start = time.perf_counter()
        with segmenter.open(read_study(work.study)) as session:
            session.wait()
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
