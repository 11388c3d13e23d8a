"""Subjects of ``peers.py`` that are segment-anything's own code, or offer its ``SamPredictor``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from peers_inputs import SIZE, picture_of, points_of, sam_of

from samihs_runtime.backends.cpu_threads import cpu_threads

DECODER = "their-decoder.onnx"


class Predictor:
    """A ``SamPredictor``, used as in segment-anything's README."""

    def __init__(self, predictor: Any, autocast: bool = False) -> None:
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)
        self.dtype = torch.bfloat16 if autocast else None
        self.predictor = predictor

    def encode(self, turn: int) -> None:
        with self.torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            self.predictor.set_image(picture_of(turn))

    def click(self, count: int, turn: int) -> None:
        """``predict`` takes one set of points for one mask, so each prompt is a separate call.

        Never under autocast: it passes its scores to numpy, which has no bfloat16.
        """
        for point in points_of(count, turn):
            self.predictor.predict(point[None], np.ones(1), multimask_output=False)

    def logits(self, turn: int) -> np.ndarray:
        """Low-resolution logits [M, M] of the first click on the last slice."""
        _, _, low = self.predictor.predict(points_of(1, turn), np.ones(1), multimask_output=False)
        return np.asarray(low[0], np.float32)


def eager(folder: Path, manner: str) -> Predictor:
    """segment-anything's own: ``eager fp32``, ``bf16 autocast`` or ``compiled``."""
    sam = sam_of(folder)
    if manner == "compiled":
        sam.image_encoder.compile()
    own = segment_anything("predictor").SamPredictor(sam)
    return Predictor(own, autocast=manner == "bf16 autocast")


def write_decoder(folder: Path) -> None:
    """segment-anything's own ONNX export of the decoder, which :class:`OnnxDecoder` runs."""
    import torch

    model = segment_anything("utils.onnx").SamOnnxModel(sam_of(folder), return_single_mask=True)
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
    torch.onnx.export(
        model, tuple(inputs.values()), str(folder / DECODER), input_names=list(inputs),
        output_names=["masks", "iou_predictions", "low_res_masks"], opset_version=17, dynamo=False,
        dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
    )  # fmt: skip


class OnnxDecoder:
    """segment-anything's eager encoder, and its own ONNX export of the decoder."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds what :func:`write_decoder` wrote."""
        import onnxruntime

        self.eager = eager(folder, "eager fp32")
        path, options = str(folder / DECODER), onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_threads()  # as the runtime
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.low = self.eager.predictor.model.prompt_encoder.mask_input_size

    def encode(self, turn: int) -> None:
        self.eager.encode(turn)

    def click(self, count: int, turn: int) -> None:
        for point in points_of(count, turn):
            masks, _ = self._run(point)
            _ = masks > 0

    def logits(self, turn: int) -> np.ndarray:
        """Low-resolution logits [M, M] of the first click on the last slice."""
        return np.asarray(self._run(points_of(1, turn)[0])[1][0, 0])

    def _run(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mask logits [1, 1, S, S] and [1, 1, M, M]."""
        predictor = self.eager.predictor
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
        masks, _, low = self.session.run(None, feeds)
        return masks, low


def segment_anything(module: str) -> ModuleType:
    """segment-anything's own module."""
    stand_in_for_torchvision()
    return importlib.import_module(f"segment_anything.{module}")


def stand_in_for_torchvision() -> None:
    """Provide, with Pillow, the two torchvision functions that SAM's predictors call.

    torchvision is not built for every torch; on Pillow images, its two functions do the same.
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
    for name in ("batched_nms", "box_area"):  # for its automatic mask generator, not called here
        setattr(stubs["torchvision.ops.boxes"], name, None)
    for name, stub in stubs.items():
        sys.modules.setdefault(name, stub)
