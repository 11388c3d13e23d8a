"""One row of the GPU benchmark: segment-anything's own modules in torch, with the same weights.

    python benchmarks/gpu_torch.py WORK ROW

ROW is "eager fp32", "autocast fp16", "autocast bf16" or "compile bf16".
Encoding and clicks are timed as in ``gpu_runtime.py``: from host memory to the end of the work, for
a click to the mask in host memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_work import (
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
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from samihs_training.network.model import SamihsModel, mask_at_slice_size
from samihs_training.network.sam import SamConfig, build_sam

TYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX = 8192
"""Side of the square matrices whose product gives the card's measured matrix rate."""
COPIED = 1 << 31
"""Bytes of the copy that gives the card's memory bandwidth: many times its cache."""


class Rival:
    """The model in one mode (``eager``, ``autocast`` or ``compile``) and type."""

    def __init__(self, work: Work, row: str) -> None:
        settings = work.read_settings()
        manner, precision = row.split()
        self.device, self.size = settings["device"], int(settings["slice_size"])
        raw = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["config"].items()}
        config = SamConfig(**raw)
        self.model = SamihsModel(build_sam(config), config).eval().to(self.device)
        self.model.load_state_dict(torch.load(work.weights, map_location=self.device))
        self.dtype = TYPES[precision]
        self._encode: Any = self.model.encode
        if manner == "compile":
            # Static shapes: each batch size is compiled separately, which is fastest.
            self._encode = torch.compile(self.model.encode, dynamic=False)

    def encode(self, hu: np.ndarray, window: np.ndarray) -> Tensor:
        """Embedding [B, E, G, G] on the device, after its computation has finished."""
        with torch.inference_mode(), self._autocast():
            embedding: Tensor = self._encode(self._put(hu), self._put(window))
        self._wait()
        return embedding

    def click(
        self, embedding: Tensor, points: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits [B, 4G, 4G], masks [B, S, S] and scores [B] on the host."""
        with torch.inference_mode(), self._autocast():
            logits, scores = self.model.decode(
                embedding, self._put(points), self._put(labels), slice_size=self.size
            )
            logits = logits.float()
            masks = mask_at_slice_size(logits, self.size)
        outputs = (logits[:, 0], masks[:, 0], scores.float())
        logits_host, masks_host, scores_host = (each.cpu().numpy() for each in outputs)
        return logits_host, masks_host, scores_host

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _autocast(self) -> Any:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Measure, and write figures and answers beside the parent's files."""
    work, row = Work(Path(sys.argv[1])), sys.argv[2]
    effort = BRIEF if work.read_settings()["brief"] else FULL
    torch.backends.cudnn.allow_tf32 = False  # on by default: the fp32 row is the reference
    before = device_memory_mb()
    rival = Rival(work, row)
    figures: dict[str, Any] = {
        "runs_on": f"torch {torch.__version__}, {row}, {rival.device}",
        "encode": {str(b): _encode(rival, b, effort) for b in ENCODE_BATCHES},
        "click": {str(n): _click(rival, n, effort) for n in CLICK_PROMPTS},
        "device_memory_mb": memory_taken_mb(before),
    }
    if row == "eager fp32":  # after memory was read, to which the matrices would add
        figures["matrix_rate"] = _matrix_rate(rival.device, effort)
        figures["bandwidth"] = _bandwidth(rival.device, effort)
        figures["encode_flop"] = _flops(rival)
        figures["encoder_weights"] = _weights(rival)
    _answer_cases(rival, work, row)
    work.figures(row).write_text(json.dumps(figures))


def _encode(rival: Rival, batch: int, effort: Effort) -> list[float]:
    hu, window = _inputs(rival.size, batch)
    return measure(lambda: rival.encode(hu, window), effort)


def _click(rival: Rival, count: int, effort: Effort) -> list[float]:
    hu, window = _inputs(rival.size, 1)
    embedding = rival.encode(hu, window).expand(count, -1, -1, -1)
    turn = iter(range(10**9))
    return measure(
        lambda: rival.click(embedding, *prompt_arrays(rival.size, count, next(turn))), effort
    )


def _inputs(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    hu = np.random.default_rng(0).uniform(-20, 100, (batch, 1, size, size)).astype(np.float32)
    return hu, np.tile(np.asarray(WINDOW, np.float32), (batch, 1))


def _flops(rival: Rival) -> float:
    """Floating-point operations of one encode: products and convolutions, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        rival.encode(*_inputs(rival.size, 1))
    return float(counter.get_total_flops())


def _weights(rival: Rival) -> int:
    """Number of weights of the image encoder."""
    return sum(each.numel() for each in rival.model.sam.image_encoder.parameters())


def _matrix_rate(device: str, effort: Effort) -> list[float]:
    """GFLOP/s of one large bf16 product: what the card reaches, not what its data sheet states."""
    side = MATRIX if device == "cuda" else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return [2 * side**3 / each / 1e9 for each in measure(_finished(device, lambda: a @ b), effort)]


def _bandwidth(device: str, effort: Effort) -> list[float]:
    """GB/s of one large copy within the device's memory, read and written."""
    size = COPIED if device == "cuda" else 1 << 20
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copies = measure(_finished(device, lambda: target.copy_(source)), effort)
    return [2 * size / each / 1e9 for each in copies]


def _finished(device: str, work: Callable[[], object]) -> Callable[[], None]:
    """The same work, followed by waiting for the device."""

    def run() -> None:
        work()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _answer_cases(rival: Rival, work: Work, row: str) -> None:
    answers: dict[str, list[Any]] = {"embedding": [], "logits": [], "mask": [], "score": []}
    with np.load(work.cases) as cases:
        for hu, points, labels in zip(cases["hu"], cases["points"], cases["labels"], strict=True):
            embedding = rival.encode(hu[None, None], np.asarray([WINDOW], np.float32))
            logits, masks, scores = rival.click(embedding, points, labels)
            answers["embedding"].append(embedding[0].float().cpu().numpy())
            for name, each in (("logits", logits), ("mask", masks), ("score", scores)):
                answers[name].append(each[0])
    np.savez(work.answers(row), **{name: np.stack(each) for name, each in answers.items()})


if __name__ == "__main__":
    main()
