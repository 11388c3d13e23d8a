"""A temporary bundle for a benchmark: its manifest, and the sizes of a model for trials."""

from __future__ import annotations

from collections.abc import Sequence

from samihs_runtime.bundle import GraphEntry, Manifest, WindowRule
from samihs_training.network.sam import SamConfig

TINY = SamConfig(
    "tiny", width=48, depth=2, heads=3, global_blocks=(1,), image_size=512, window=5,
    prompt_width=32, decoder_depth=2, decoder_heads=4, decoder_mlp=64, score_hidden=32,
)  # fmt: skip
"""For trying out the machinery: ViT-B takes minutes to export."""


def manifest_of(
    config: SamConfig, slice_size: int, window: WindowRule, graphs: Sequence[GraphEntry]
) -> Manifest:
    """What the runtime must know about graphs that were written for slices of ``slice_size`` px."""
    return Manifest(
        name=f"benchmark-{config.name}",
        version="0",
        preset=config.name,
        intended_use="measuring",
        training_data="not said: the bundle is thrown away",
        clinical_use=False,
        slice_size=slice_size,
        image_size=config.image_size,
        grid=config.grid,
        mask_cells=config.mask_size // config.grid,
        embedding_channels=config.embedding_channels,
        window=window,
        score_threshold=0.5,
        plausible_hu=(10.0, 110.0),
        graphs=tuple(graphs),
    )
