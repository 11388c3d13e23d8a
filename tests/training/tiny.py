"""SAMs so small that training them takes milliseconds."""

from __future__ import annotations

from dataclasses import replace

from samihs_training.network.sam import SamConfig

TINY = SamConfig(
    "tiny", width=16, depth=2, heads=2, global_blocks=(1,), image_size=64, patch_size=8, window=3,
    prompt_width=16, decoder_heads=2, decoder_mlp=16, score_hidden=8,
)  # fmt: skip
"""Window 3 on a grid of 8: its windows are padded."""
PYRAMID = replace(TINY, name="tiny_pyramid", patch_size=16, pyramid_width=4, fine_channels=2)
