"""One subject of ``peers.py``: does what a line of its input says, and answers in JSON.

``encode`` and ``click N`` answer the seconds they took, ``memory`` the peak resident MB.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from stopwatch import seconds

SIZE = 512


class Subject(Protocol):
    """What is measured."""

    def encode(self, turn: int) -> None:
        """Embed another slice than the last time."""

    def click(self, count: int, turn: int) -> None:
        """Masks at the slice's size of ``count`` prompts on the last slice."""


class Runtime:
    """This project's runtime; torch is never loaded."""

    def __init__(self, folder: Path, precision: str) -> None:
        from samihs_runtime.segmenter import Segmenter

        self.segmenter = Segmenter.from_bundle(folder / f"bundle-{precision}", "cpu")
        self.encoded: Any = None

    def encode(self, turn: int) -> None:
        self.encoded = self.segmenter.encode(_slice(turn))

    def click(self, count: int, turn: int) -> None:
        from samihs_runtime.segmentation import FOREGROUND, Prompt

        prompts = [Prompt(((x, y),), (FOREGROUND,)) for x, y in _points(count, turn).tolist()]
        self.segmenter.predict_batch([self.encoded] * count, prompts)


class Predictor:
    """segment-anything's ``SamPredictor``, as its README has one use it."""

    def __init__(self, folder: Path, manner: str) -> None:
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)
        sam = _sam(folder)
        if manner == "compiled":
            sam.image_encoder.compile()
        self.dtype = torch.bfloat16 if manner == "bf16 autocast" else None
        self.predictor = _segment_anything("predictor").SamPredictor(sam)

    def encode(self, turn: int) -> None:
        with self._autocast():
            self.predictor.set_image(_picture(turn))

    def click(self, count: int, turn: int) -> None:
        """``predict`` takes one set of points for one mask: each prompt is a call of its own."""
        with self._autocast():
            for point in _points(count, turn):
                self.predictor.predict(point[None], np.ones(1), multimask_output=False)

    def _autocast(self) -> Any:
        return self.torch.autocast("cpu", self.dtype, enabled=self.dtype is not None)


class OnnxDecoder:
    """segment-anything's eager encoder, and its own ONNX export of the decoder."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        import torch

        self.eager = Predictor(folder, "eager fp32")
        model = _segment_anything("utils.onnx").SamOnnxModel(_sam(folder), return_single_mask=True)
        encoder = model.model.prompt_encoder
        dim, grid, low = encoder.embed_dim, encoder.image_embedding_size, encoder.mask_input_size
        inputs = {
            "image_embeddings": torch.randn(1, dim, *grid),
            "point_coords": torch.zeros(1, 2, 2),
            "point_labels": torch.ones(1, 2),
            "mask_input": torch.randn(1, 1, *low),
            "has_mask_input": torch.zeros(1),
            "orig_im_size": torch.tensor([SIZE, SIZE], dtype=torch.float),
        }
        path = folder / "their-decoder.onnx"
        torch.onnx.export(
            model, tuple(inputs.values()), str(path), input_names=list(inputs), dynamo=False,
            output_names=["masks", "iou_predictions", "low_res_masks"], opset_version=17,
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
        )  # fmt: skip
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.low = low

    def encode(self, turn: int) -> None:
        self.eager.encode(turn)

    def click(self, count: int, turn: int) -> None:
        predictor = self.eager.predictor
        for point in _points(count, turn):
            coords = np.concatenate([point[None], np.zeros((1, 2))])[None]
            feeds = {
                "image_embeddings": predictor.features.numpy(),
                "point_coords": predictor.transform.apply_coords(coords, (SIZE, SIZE)),
                "point_labels": np.array([[1, -1]]),
                "mask_input": np.zeros((1, 1, *self.low)),
                "has_mask_input": np.zeros(1),
                "orig_im_size": np.array([SIZE, SIZE]),
            }
            feeds = {name: each.astype(np.float32) for name, each in feeds.items()}
            masks, _, _ = self.session.run(None, feeds)
            _ = masks > 0


def _segment_anything(module: str) -> ModuleType:
    """segment-anything's own module; the two functions of torchvision that it calls are Pillow's.

    torchvision has no build for every torch; on Pillow images these two do just this.
    """
    from PIL import Image

    functional = ModuleType("torchvision.transforms.functional")
    functional.to_pil_image = Image.fromarray  # type: ignore[attr-defined]
    functional.resize = lambda image, size: image.resize(  # type: ignore[attr-defined]
        size[::-1], Image.Resampling.BILINEAR
    )
    stubs = {"torchvision": ModuleType("torchvision"), functional.__name__: functional}
    stubs["torchvision.transforms"] = ModuleType("torchvision.transforms")
    stubs["torchvision.ops"] = ModuleType("torchvision.ops")
    stubs["torchvision.ops.boxes"] = ModuleType("torchvision.ops.boxes")
    for name in ("batched_nms", "box_area"):  # of its automatic mask generator, not called here
        setattr(stubs["torchvision.ops.boxes"], name, None)
    for name, stub in stubs.items():
        sys.modules.setdefault(name, stub)
    return importlib.import_module(f"segment_anything.{module}")


def _sam(folder: Path) -> Any:
    import torch

    from samihs_training.sam import build_sam, preset

    name, size = (folder / "preset").read_text().split()
    sam = build_sam(replace(preset(name), image_size=int(size)))
    sam.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return sam


def _slice(turn: int) -> np.ndarray:
    random = np.random.default_rng(turn)
    return random.uniform(-20, 100, (SIZE, SIZE)).astype(np.float32)


def _picture(turn: int) -> np.ndarray:
    """The slice in the window, as a picture of 8 bits and three channels."""
    grey = ((_slice(turn) + 20) * (255 / 120)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _points(count: int, turn: int) -> np.ndarray:
    return np.random.default_rng(turn).uniform(100, SIZE - 100, (count, 2))


def _subject(folder: Path, name: str) -> Subject:
    family, _, manner = name.partition(" ")
    if family == "samihs":
        return Runtime(folder, manner)
    if family == "SamPredictor":
        return Predictor(folder, manner)
    return OnnxDecoder(folder)


def _peak_mb() -> float:
    """Of this program alone: ``ru_maxrss`` would count the process that it was started from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    subject = _subject(Path(sys.argv[1]), sys.argv[2])
    for turn, line in enumerate(sys.stdin):
        word, *rest = line.split()
        what: dict[str, Callable[[], Any]] = {
            "encode": lambda turn=turn: seconds(lambda: subject.encode(turn)),
            "click": lambda turn=turn, rest=rest: seconds(
                lambda: subject.click(int(rest[0]), turn)
            ),
            "memory": _peak_mb,
        }
        print(json.dumps(what[word]()), file=answers, flush=True)


if __name__ == "__main__":
    main()
