"""Segment Anything's own modules, in the sizes this project uses.

The model is segment-anything's, unforked. On import, its package imports torchvision, which it does
not declare as a dependency and which not every index has as a CPU build, though the model does not
need it. So the ``modeling`` subpackage is loaded under a name of our own; ``import
segment_anything`` stays what it always was.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from samihs_runtime.errors import BackendError, UsageError
from samihs_training.network.click_maps import Clicked, ClickMaps
from samihs_training.network.mask_head import Context, Evidence, Likeness
from samihs_training.network.mask_threshold import MaskThreshold
from samihs_training.network.pyramid import CELLS, FINE_CELLS, Channels, Pyramid, Smoothing
from samihs_training.network.second_look import Review

_ALIAS = "samihs_training._segment_anything"


def segment_anything_modeling() -> ModuleType:
    """segment-anything's ``modeling`` subpackage, without its package's torchvision import."""
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise BackendError(
                "the package segment-anything is not installed: pip install 'samihs[train]'"
            )
        package = ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.modeling")


@dataclass(frozen=True)
class SamConfig:
    """Sizes of one SAM. The defaults are those that Meta's three share (``build_sam.py``)."""

    name: str
    width: int
    """Encoder token width C."""
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    """Blocks that attend over the whole grid; the others within windows."""
    image_size: int = 1024
    """Side of the model's square frame, pixels."""
    patch_size: int = 16
    window: int = 14
    """Side of an attention window, tokens."""
    prompt_width: int = 256
    """Channels E of the embedding, the prompts and the mask decoder."""
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    score_hidden: int = 256
    """Hidden width of the head that predicts a mask's IoU."""
    mask_channels: int = 16
    """Hidden channels of the prior-mask encoder."""
    pyramid_width: int = 0
    """Channels at half size of a convolutional pyramid (``pyramid.py``); 0: SAM's patches."""
    fine_channels: int = 8
    """Channels K of its finest features that go to the decoder."""
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted per channel after the window is scaled to [0, 1]. The SAMIHS authors use none."""
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirrored: bool = False
    """Test-time augmentation: the mirrored slice is used as well (``mirror.py``). The channels of
    its embedding follow those of the slice's own. Not for training."""

    @property
    def grid(self) -> int:
        """Tokens along one side, G."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask: SAM's 4G, or with a pyramid 8G."""
        return self.grid * (FINE_CELLS if self.pyramid_width else CELLS)

    @property
    def channels(self) -> Channels:
        """Channels of the encoder's output; without a pyramid, only those of the embedding."""
        if not self.pyramid_width:
            return Channels(self.prompt_width, 0, 0)
        return Channels(self.prompt_width, self.prompt_width // 8, self.fine_channels)

    @property
    def embedding_channels(self) -> int:
        """All channels per token, including those of its 16 cells and of its 64 mask cells."""
        embedding, detail, fine = self.channels
        once = embedding + CELLS**2 * detail + FINE_CELLS**2 * fine
        return 2 * once if self.mirrored else once

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise UsageError(
                f"image size {self.image_size} is not a multiple of the patch {self.patch_size}"
            )
        if self.width % self.heads:
            raise UsageError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.pyramid_width and self.patch_size != Pyramid.stride:
            raise UsageError(f"patch size {self.patch_size}: a pyramid has {Pyramid.stride}")
        if self.pyramid_width and self.grid % 2:
            raise UsageError(f"{self.grid} x {self.grid} tokens: a pyramid needs an even grid")
        if any(not 0 <= block < self.depth for block in self.global_blocks):
            raise UsageError(f"global blocks {self.global_blocks} outside 0..{self.depth - 1}")


PRESETS: dict[str, SamConfig] = {
    config.name: config
    for config in (
        SamConfig(
            "vit_mini",
            width=128,
            depth=10,
            heads=2,
            global_blocks=(1, 3, 5, 7, 9),
            image_size=512,
            window=8,
            prompt_width=128,
            decoder_heads=4,
            decoder_mlp=384,
            score_hidden=128,
            pyramid_width=32,
            pixel_mean=(0.3, 0.3, 0.3),  # brain and air about the head, in a window of -20..100 HU
            pixel_std=(0.3, 0.3, 0.3),
        ),
        SamConfig("vit_b", width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
        SamConfig("vit_l", width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
        SamConfig("vit_h", width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    )
}


def preset(name: str) -> SamConfig:
    """The configuration of that name; a :class:`UsageError` lists the names there are."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"no model preset {name!r}: there are {', '.join(PRESETS)}") from None


def build_sam(config: SamConfig) -> nn.Module:
    """A randomly initialised SAM of segment-anything's own classes, in evaluation mode.

    Submodules: ``image_encoder``, ``prompt_encoder``, ``mask_decoder``, with the parameter names of
    Meta's checkpoints.
    """
    modeling: Any = segment_anything_modeling()
    grid = (config.grid, config.grid)
    sam: nn.Module = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=config.global_blocks,
            window_size=config.window,
            out_chans=config.prompt_width,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=config.prompt_width,
            image_embedding_size=grid,
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_channels,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_width,
                mlp_dim=config.decoder_mlp,
                num_heads=config.decoder_heads,
            ),
            transformer_dim=config.prompt_width,
            iou_head_depth=3,
            iou_head_hidden_dim=config.score_hidden,
        ),
        # segment-anything normalises 0..255; ours are fractions of the window.
        pixel_mean=[255.0 * mean for mean in config.pixel_mean],
        pixel_std=[255.0 * std for std in config.pixel_std],
    )
    if config.pyramid_width:
        _with_pyramid(sam, config, modeling)
    return sam.eval()


def _with_pyramid(sam: Any, config: SamConfig, modeling: Any) -> None:
    """Replace the patch embedding by a pyramid, and extend the decoder to use its features."""
    channels, decoder = config.channels, sam.mask_decoder
    sam.image_encoder.patch_embed = Pyramid(config.width, config.pyramid_width, channels)
    decoder.output_upscaling.append(Smoothing(channels.detail))
    decoder.click_maps = ClickMaps(channels.detail, CELLS * config.grid, config.image_size)
    width, mlp = config.prompt_width, modeling.mask_decoder.MLP
    decoder.fine_hypernetwork = mlp(width, width, channels.fine, 3)
    decoder.gate_hypernetwork = mlp(width, width, channels.detail, 3)
    nn.init.zeros_(decoder.gate_hypernetwork.layers[-1].weight)
    nn.init.zeros_(decoder.gate_hypernetwork.layers[-1].bias)
    decoder.context = Context(width, config.decoder_heads, config.decoder_mlp, modeling)
    decoder.clicked = Clicked(CELLS * config.grid, config.image_size, deviation=4.0)
    decoder.likeness = Likeness(channels.detail)
    decoder.fine_clicked = Clicked(FINE_CELLS * config.grid, config.image_size, deviation=2.0)
    decoder.fine_likeness = Likeness(channels.fine, hidden=16)
    decoder.review = Review(channels.detail, channels.fine)
    decoder.evidence = Evidence(channels.detail, channels.fine)
    decoder.mask_threshold = MaskThreshold()


def encoder_blocks(sam: nn.Module) -> Any:
    """segment-anything's blocks: each has ``norm1``, ``attn``, ``norm2`` and ``mlp``."""
    encoder: Any = sam.image_encoder
    return encoder.blocks
