"""ViT-B, L and H at 1024, 512 and 256: real sizes where cheap, and the whole ViT-B once."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from samihs_export.engines.build_options import BuildOptions, ProfileSizes
from samihs_export.engines.tensorrt import build_engines
from samihs_export.float_types import Precision
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.families import write_graphs
from samihs_export.graphs.multiply_count import multiply_accumulates
from samihs_export.graphs.onnx import export_encoder
from samihs_export.graphs.ort_attention import OPERATOR
from samihs_export.graphs.quantization import Range
from samihs_export.merge import merge, relative_error
from samihs_export.proof.cases import phantom_cases
from samihs_export.proof.gates import gates_for
from samihs_export.proof.parity import answers_of_onnx, compare
from samihs_export.proof.reference import answers_of_model
from samihs_runtime.bundle import GraphEntry, WindowRule, write_bundle
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import preset
from tests.export.conftest import Exported, adapted_model

PLANNED = re.compile(r"blocks\.\d+\.(attention\.(qkv|proj)|mlp\.lin[12])/")
WINDOW = torch.tensor([[-20.0, 100.0]])
# segment-anything's ViT-B at 1024, by hand: 64 x 64 tokens, 70 x 70 in 8 blocks that pad windows.
TOKENS, WIDTH = 64 * 64, 768
ONE_HOT = 2 * 64
"""Width of a head's key in the fused attention for the position of its token."""
PLAIN_LINEAR = 12 * 8 * TOKENS * WIDTH**2 + (8 * 70 * 70 + 4 * TOKENS) * 4 * WIDTH**2


def shallow(name: str, image_size: int, *, narrow: bool) -> SamihsModel:
    """One window block and one global block of a preset, adapters merged."""
    whole = preset(name)
    config = dataclasses.replace(whole, image_size=image_size, depth=2, global_blocks=(1,))
    if narrow:
        config = dataclasses.replace(config, width=16, heads=1, prompt_width=32)
    return merge(adapted_model(PRConfig(rank=8), config=config))[0]


@pytest.mark.parametrize("image_size", [256, 512, 1024])
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
@torch.no_grad()
def test_encoder_equals_segment_anythings_at_every_size(name: str, image_size: int) -> None:
    """At 1024 (64 tokens, windows of 14 that pad to 70) with narrow layers: same indices."""
    model = shallow(name, image_size, narrow=image_size > 256)
    hu = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 60 + 40
    ours, theirs = EncoderGraph(model).eval()(hu, WINDOW), model.encode(hu, WINDOW)
    assert relative_error(ours, theirs) < 1e-5


def test_pad_tokens_cost_nothing(tmp_path: Path) -> None:
    """Windows of 14 pad 64 tokens to 70: 16 % fewer rows in a window block's two projections."""
    model = shallow("vit_b", 1024, narrow=True)
    export_encoder(EncoderGraph(model), 64, tmp_path / "encoder.onnx")
    work = multiply_accumulates(tmp_path / "encoder.onnx", {"batch": 1})
    width = model.config.width
    for block in range(2):
        assert work[f"blocks.{block}.attention.qkv/MatMul"] == 64 * 64 * width * 3 * width
        assert work[f"blocks.{block}.attention.proj/MatMul"] == 64 * 64 * width * width


@pytest.mark.slow
def test_vit_b_at_1024(tmp_path: Path, exported: Exported) -> None:
    """The whole ViT-B: parity, work, nodes, and engines for three GPUs without a GPU.

    Random weights at a trained SAM's scale where it matters: norm gains about 1 with a spread, and
    outlier channels of 50 times the rest in the residual stream.
    """
    model = adapted_model(PRConfig(rank=100), config=preset("vit_b"))
    with torch.no_grad():
        nn.init.normal_(model.sam.image_encoder.pos_embed[..., :4], std=10.0)
    merged = merge(model)[0]
    del model
    files = tmp_path / "files"
    kinds: tuple[tuple[str, Precision], ...] = (("onnx", "fp32"), ("trt", "fp16"), ("trt", "bf16"))
    entries = [write_graphs(files, merged, *kind, 512, no_ranges) for kind in kinds]
    check_work_of_vit_b(files / entries[0].encoder)
    for entry in entries[1:]:
        nodes = onnx.load(files / entry.encoder, load_external_data=False).graph.node
        assert len(nodes) <= 620
        assert Counter(node.op_type for node in nodes)["Shape"] <= 2
    check_parity_of_vit_b(files, entries[0], merged)
    manifest = dataclasses.replace(
        exported.bundle.manifest,
        slice_size=512,
        image_size=1024,
        grid=64,
        embedding_channels=256,
        graphs=tuple(entries),
    )
    del merged
    bundle = write_bundle(files, manifest, tmp_path / "bundle")
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")
    options = BuildOptions(ProfileSizes(encode_batch=(1, 1, 1)))
    for precision in ("fp16", "bf16"):
        built = build_engines(
            bundle,
            tmp_path / "engines",
            ["sm80", "sm89", "sm120"],
            precision=precision,
            options=options,
        )
        assert [each.attention_layers for each in built] == [12, 0] * 3
        for encoder in built[::2]:
            print(encoder.path.name, encoder.activation_bytes, round(encoder.build_seconds, 1))
            assert encoder.activation_bytes is not None
            assert encoder.activation_bytes <= 150e6


def check_work_of_vit_b(encoder: Path) -> None:
    """At most that of plain SAM, reduced by what the pad tokens of windows would have cost."""
    work = multiply_accumulates(encoder, {"batch": 1})
    fused = {name: each for name, each in work.items() if name.endswith(OPERATOR)}
    assert list(fused.values()) == [TOKENS**2 * (WIDTH * 2 + 12 * ONE_HOT)] * 4
    # Products with zeros and ones, in place of additions, do not exist in SAM.
    work.subtract(dict.fromkeys(fused, TOKENS**2 * 12 * ONE_HOT))
    linear = sum(count for name, count in work.items() if PLANNED.match(name))
    assert linear == 12 * 12 * TOKENS * WIDTH**2
    saved = PLAIN_LINEAR - linear
    assert 0.043 < saved / linear < 0.045
    assert 0.030 < saved / (sum(work.values()) + saved) < 0.032
    window, whole = attention_work(14), attention_work(64)
    patches, neck = 3 * 16 * 16 * WIDTH, WIDTH * 256 + 9 * 256 * 256
    plain = PLAIN_LINEAR + 8 * 25 * window + 4 * whole + TOKENS * (patches + neck)
    print(f"encoder: {sum(work.values()) / 1e9:.1f} GMAC, segment-anything's {plain / 1e9:.1f}")
    assert sum(work.values()) + saved <= plain


def attention_work(side: int) -> int:
    """For side x side tokens: queries by keys, by values, by relative positions of both axes."""
    return WIDTH * side**2 * (2 * side**2 + 2 * side)


def check_parity_of_vit_b(files: Path, entry: GraphEntry, merged: SamihsModel) -> None:
    window = WindowRule("fixed", -20.0, 100.0)
    cases = phantom_cases(1, slice_size=512, mask_size=256, window=window)
    answers = answers_of_onnx(files / entry.encoder, files / entry.decoder, cases, threads=1)
    result = compare("ViT-B fp32", answers_of_model(merged, cases), answers)
    result.require(gates_for("fp32", trained=False))


def no_ranges() -> dict[str, Range]:
    raise AssertionError("nothing to calibrate here")
