"""The transformers library's SAM as a subject of ``peers.py``, with segment-anything's weights.

Its model has the same parameters under other names, which :func:`renamed` gives. The library is not
a dependency of this project: if it is not installed, the subject is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peers_inputs import SIZE, config_of, picture_of, points_of, sam_of

if TYPE_CHECKING:
    from torch import Tensor

    from samihs_training.network.sam import SamConfig

NAMES = (
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
     "prompt_encoder.shared_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings", "prompt_encoder.point_embed"),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
    ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    (".blocks.", ".layers."),
    (".norm", ".layer_norm"),
)  # fmt: skip
"""segment-anything's names and the library's, replaced in this order (transformers 5.24)."""
HEADS = ("iou_prediction_head.", "output_hypernetworks_mlps.")
"""Three-layer perceptrons, whose first and last layers have special names there."""
LAYERS = ((".layers.0.", ".proj_in."), (".layers.1.", ".layers.0."), (".layers.2.", ".proj_out."))
WEIGHTS = "transformers.pt"
SHARED = "prompt_encoder.shared_embedding.positional_embedding"


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """segment-anything's state dict under the library's names; the library has one tensor twice."""
    found = {name_of(key): value for key, value in state.items()}
    found["shared_image_embedding.positional_embedding"] = found[SHARED]
    return found


def name_of(key: str) -> str:
    """The library's name for a parameter of segment-anything."""
    if any(head in key for head in HEADS):
        theirs, ours = next(pair for pair in LAYERS if pair[0] in key)
        key = key.replace(theirs, ours)
    for theirs, ours in NAMES:
        key = key.replace(theirs, ours)
    return key


def options_of(config: SamConfig) -> dict[str, dict[str, Any]]:
    """The library's configuration for a SAM of these sizes."""
    frame = {"image_size": config.image_size, "patch_size": config.patch_size}
    vision = {
        **frame,
        "hidden_size": config.width,
        "output_channels": config.prompt_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "window_size": config.window,
        "global_attn_indexes": list(config.global_blocks),
        "num_pos_feats": config.prompt_width // 2,
    }
    prompts = {
        **frame,
        "hidden_size": config.prompt_width,
        "mask_input_channels": config.mask_channels,
    }
    decoder = {
        "hidden_size": config.prompt_width,
        "num_hidden_layers": config.decoder_depth,
        "num_attention_heads": config.decoder_heads,
        "mlp_dim": config.decoder_mlp,
        "iou_head_hidden_dim": config.score_hidden,
        "layer_norm_eps": 1e-5,  # torch's default, as in segment-anything; theirs is 1e-6
    }
    return {
        "vision_config": vision,
        "prompt_encoder_config": prompts,
        "mask_decoder_config": decoder,
    }


def write_weights(folder: Path) -> None:
    """Write the weights under the library's names."""
    import torch

    torch.save(renamed(sam_of(folder).state_dict()), folder / WEIGHTS)


class Transformers:
    """``SamModel`` in float32, with its own image processor."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds what :func:`write_weights` wrote."""
        import torch

        try:
            import transformers
        except ImportError as error:
            raise RuntimeError(
                f"the transformers library is not installed ({error}): pip install transformers"
            ) from error
        torch.set_grad_enabled(False)
        self.torch, self.config = torch, config_of(folder)
        configured = transformers.SamConfig(**options_of(self.config))
        self.model = transformers.SamModel(configured).eval()
        self.model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
        side = self.config.image_size
        # The variant without torchvision, which the plain name needs since 5.0.
        kind = getattr(transformers, "SamImageProcessorPil", None) or transformers.SamImageProcessor
        self.processor = kind(
            size={"longest_edge": side},
            pad_size={"height": side, "width": side},
            image_mean=list(self.config.pixel_mean),
            image_std=list(self.config.pixel_std),
        )
        self.inputs: Any = None
        self.embedding: Any = None

    def encode(self, turn: int) -> None:
        self.inputs = self.processor(images=picture_of(turn), return_tensors="pt")
        self.embedding = self.model.get_image_embeddings(self.inputs["pixel_values"])

    def click(self, count: int, turn: int) -> None:
        """Several prompts on one image form a batch of points: one call for all of them."""
        self.processor.post_process_masks(
            self._low_resolution(count, turn),
            self.inputs["original_sizes"],
            self.inputs["reshaped_input_sizes"],
        )

    def logits(self, turn: int) -> np.ndarray:
        """Low-resolution logits [M, M] of the first click on the last slice."""
        return np.asarray(self._low_resolution(1, turn)[0, 0, 0].numpy())

    def _low_resolution(self, count: int, turn: int) -> Tensor:
        """[1, count, 1, M, M]."""
        scaled = points_of(count, turn) * (self.config.image_size / SIZE)
        points = self.torch.from_numpy(scaled).float()[None, :, None]  # [1, count, 1, 2]
        labels = self.torch.ones(1, count, 1, dtype=self.torch.long)
        answer = self.model(
            image_embeddings=self.embedding,
            input_points=points,
            input_labels=labels,
            multimask_output=False,
        )
        low: Tensor = answer.pred_masks
        return low
