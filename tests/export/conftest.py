"""A tiny adapted model whose windows pad, and one bundle of it for the whole session."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from samihs_export import pipeline
from samihs_export.cli import main
from samihs_export.metadata import BundleMetadata
from samihs_export.pipeline import ExportOptions
from samihs_runtime.bundle import Bundle, WindowRule, sha256_of
from samihs_training.adapters import PRConfig, insert_pr_adapters, pr_adapters
from samihs_training.checkpoints.checkpoint import load_adapters, save_adapters, save_base
from samihs_training.network.mask_threshold import MaskThreshold
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, build_sam

SLICE = 96
TINY = SamConfig(
    "tiny",
    width=48,
    depth=2,
    heads=3,
    global_blocks=(1,),
    image_size=128,  # not that of the slice: the graph resizes
    patch_size=16,
    window=5,  # a grid of 8: padded to 10
    prompt_width=32,
    decoder_depth=1,
    decoder_heads=4,
    decoder_mlp=64,
    score_hidden=32,
    pixel_mean=(0.4, 0.5, 0.6),
    pixel_std=(0.2, 0.3, 0.4),
)
TINY_PYRAMID = replace(TINY, name="tiny_pyramid", pyramid_width=6)
"""With a convolutional pyramid: tokens 8 x 8, an embedding of 16 x 16, detail for the decoder."""
BEGUN_AS_NOTHING = (
    "context", "likeness", "fine_likeness", "gate_hypernetwork", "review", "sharpen", "evidence",
)  # fmt: skip
"""Modules of a pyramid's decoder whose last layers are zero; equal tensors become one in ONNX."""
PR = PRConfig(rank=8)
DATA = {"cases": 4, "fold": 1, "folds": 5, "folds_sha256": 64 * "a"}
ABOUT = {
    "window": [-20, 100], "training_data": "none: random weights", "data": DATA,
    "recipe": {"data": {"size": SLICE}},
}  # fmt: skip
EVALUATION = {"dice": 0.5, "score_threshold": 0.4204}
METADATA = BundleMetadata("tiny", "1", "none: random weights", WindowRule("fixed", -20.0, 100.0))
OPTIONS = ExportOptions(
    slice_size=SLICE,
    precisions=("fp16", "int8", "fp8"),
    calibration_slices=4,
    parity_slices=4,
    reference_slices=2,
    trained=False,
)


def adapted_model(pr: PRConfig, seed: int = 0, config: SamConfig = TINY) -> SamihsModel:
    """Random weights; adapters, relative positions and norms far from their neutral start."""
    torch.manual_seed(seed)
    sam = build_sam(config)
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.2)
        elif "norm" in name:
            nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.2, std=0.3)
        elif not parameter.any() and any(part in name for part in BEGUN_AS_NOTHING):
            nn.init.normal_(parameter, std=0.2)
    set_threshold(sam, -0.75)
    insert_pr_adapters(sam, pr)
    draw_adapters(sam)
    return SamihsModel(sam, config).eval()


def set_threshold(sam: nn.Module, logit: float) -> None:
    """Give the masks this threshold, if the model has one."""
    for module in sam.modules():
        if isinstance(module, MaskThreshold):
            module.logit.fill_(logit)


def draw_adapters(sam: nn.Module) -> None:
    """Give the PR adapters random weights, far from the neutral ones that they start with."""
    for _, _, adapter in pr_adapters(sam):
        nn.init.normal_(adapter.scale, std=0.5)
        nn.init.normal_(adapter.bias, std=0.3)


def train_elsewhere(model: SamihsModel, seed: int) -> None:
    """Turn the model into another site's: other adapters, another decoder, over the same base."""
    torch.manual_seed(seed)
    draw_adapters(model.sam)
    set_threshold(model.sam, 0.5)
    with torch.no_grad():
        for part in (model.sam.mask_decoder, model.sam.prompt_encoder):
            for parameter in part.parameters():
                parameter += torch.randn_like(parameter) * 0.05


@dataclass(frozen=True)
class Checkpoints:
    """Adapters, the base they belong to, and another base."""

    adapters: Path
    base: Path
    other_base: Path

    @property
    def evaluation(self) -> Path:
        """Evaluation of these adapters on their base."""
        return self.adapters.with_name("evaluation.json")


@dataclass(frozen=True, eq=False)
class Exported:
    """The session's bundle, as written by the command, and the model that it was made from."""

    model: SamihsModel
    bundle: Bundle


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = Checkpoints(*(folder / f"{n}.safetensors" for n in ("adapters", "base", "other")))
    model = adapted_model(PR)
    state = plain_state(model)
    for path, seed in ((paths.base, 0), (paths.other_base, 1)):
        torch.manual_seed(seed)
        sam = build_sam(TINY)
        sam.load_state_dict(state if path == paths.base else sam.state_dict())
        save_base(path, sam, TINY, {})
    save_adapters(paths.adapters, model.sam, PR, paths.base, ABOUT)
    write_evaluation(paths.adapters, paths.base)
    return paths


def write_evaluation(adapters: Path, base: Path) -> None:
    """Beside the adapters, where an export looks for it."""
    hashes = {"adapters_sha256": sha256_of(adapters), "base_sha256": sha256_of(base)}
    text = json.dumps({**EVALUATION, "weights": hashes})
    adapters.with_name("evaluation.json").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def exported(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle with fp32 graphs for ONNX Runtime and fp16 graphs for TensorRT."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    paths = ["--checkpoint", str(checkpoints.adapters), "--base", str(checkpoints.base)]
    with pytest.MonkeyPatch.context() as patch:
        # the slices' size is that of the checkpoint
        patch.setattr(pipeline, "ExportOptions", lambda **given: replace(OPTIONS, slice_size=512))
        result = CliRunner().invoke(main, ["bundle", *paths, "--out", str(out), "--untrained"])
    assert result.exit_code == 0, result.output
    model = load_adapters(checkpoints.adapters, checkpoints.base).model
    return Exported(model, Bundle.open(out))


def plain_state(model: SamihsModel) -> dict[str, torch.Tensor]:
    """The weights that the base had before the adapters were put in."""
    state = {}
    for name, tensor in model.sam.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["image_encoder", "blocks"] and parts[4].isdigit():
            if parts[4] == "0":
                continue  # the adapter
            del parts[4]
        state[".".join(parts)] = tensor
    return state
