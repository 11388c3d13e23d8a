"""The authors' own model, rebuilt from this project's classes, answers as theirs did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from samihs_export.merge import merge
from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.adapters import insert_pr_adapters
from samihs_training.checkpoints.authors import authors_adapters, from_authors, import_authors
from samihs_training.checkpoints.checkpoint import load_adapters, load_base
from samihs_training.cli import main
from samihs_training.data.cases.case import CaseFiles
from samihs_training.data.folds import Folds, write_folds
from samihs_training.evaluation.chosen_cases import chosen_cases
from samihs_training.evaluation.predictors import checkpoint_predictor
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, build_sam

GOLDEN = Path(__file__).parents[1] / "golden" / "upstream_model.npz"
TOLERANCE = 1e-4  # weights and stored numbers went through other kernels than ours
AUTHORS = SamConfig(
    "authors_tiny", width=48, depth=4, heads=3, global_blocks=(1, 3), prompt_width=32,
    decoder_heads=4, decoder_mlp=64, score_hidden=32,
)  # fmt: skip


def golden_state() -> dict[str, torch.Tensor]:
    arrays = np.load(GOLDEN)
    return {
        name.removeprefix("sd/"): torch.from_numpy(arrays[name].astype(np.float32))
        for name in arrays.files
        if name.startswith("sd/")
    }


def rebuilt(*, pad_before_norm: bool = True) -> SamihsModel:
    state = golden_state()
    options = authors_adapters(state)
    assert (options.rank, options.pad_before_norm) == (100, True)
    sam = build_sam(AUTHORS)
    insert_pr_adapters(sam, options)
    sam.load_state_dict(from_authors(state), strict=True)
    if not pad_before_norm:  # the same weights in SAM's own order
        for block in sam.image_encoder.blocks:
            norm, adapter, attention = block.attn
            block.norm1, block.attn = norm, torch.nn.Sequential(adapter, attention)
    return SamihsModel(sam, AUTHORS).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    small = torch.from_numpy(np.load(GOLDEN)["x64"])
    whole = F.interpolate(small, size=(1024, 1024), mode="bilinear", align_corners=False)
    return whole.expand(-1, 3, -1, -1)


@torch.inference_mode()
def test_embedding_and_logits_are_the_authors(image: torch.Tensor) -> None:
    golden, model = np.load(GOLDEN), rebuilt()
    embedding = model.sam.image_encoder(image)
    points, labels = torch.tensor([[[400.0, 500.0], [0, 0]]]), torch.tensor([[1, -1]])
    logits, _ = model.decode(embedding, points, labels, slice_size=1024)
    np.testing.assert_allclose(
        embedding[..., ::4, ::4].numpy(), golden["embedding"], rtol=0, atol=TOLERANCE
    )
    np.testing.assert_allclose(
        logits[..., ::4, ::4].numpy(), golden["logits"], rtol=0, atol=TOLERANCE
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights as the authors' training leaves them, imported by the command."""
    folder = tmp_path_factory.mktemp("authors")
    torch.save(golden_state(), folder / "samihs.pth")
    arguments = [str(folder / "samihs.pth"), "--out", str(folder / "run"), "--decoder-heads", "4"]
    result = CliRunner().invoke(main, ["import-authors", *arguments])
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.mark.parametrize("merged", [False, True])
@torch.inference_mode()
def test_an_imported_checkpoint_answers_as_the_authors_model(
    imported: Path, image: torch.Tensor, merged: bool
) -> None:
    golden = np.load(GOLDEN)
    loaded = load_adapters(imported / "adapters.safetensors", imported / "base.safetensors")
    assert loaded.pr is not None
    assert loaded.pr.pad_before_norm
    assert replace(loaded.model.config, name=AUTHORS.name) == AUTHORS
    model = merge(loaded.model)[0] if merged else loaded.model
    embedding = model.sam.image_encoder(image)
    points, labels = torch.tensor([[[400.0, 500.0], [0, 0]]]), torch.tensor([[1, -1]])
    logits, _ = model.decode(embedding, points, labels, slice_size=1024)
    for ours, theirs in ((embedding, "embedding"), (logits, "logits")):
        error = np.abs(ours[..., ::4, ::4].numpy() - golden[theirs]).max()
        assert error < TOLERANCE, (theirs, error)


def test_an_imported_base_is_plain_sam(imported: Path) -> None:
    sam, config, description = load_base(imported / "base.safetensors")
    assert {n: t.shape for n, t in sam.state_dict().items()} == {
        n: t.shape for n, t in build_sam(config).state_dict().items()
    }
    assert description["window"] == {"rule": "percentiles", "low": 0.05, "high": 99.5}


def test_nobody_knows_on_whom_it_was_trained(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapters = (imported / f"{each}.safetensors" for each in ("base", "adapters"))
    assert load_base(base)[2]["data"] == {"unknown": True}
    cases = [CaseFiles("049", None, None, "bcihm")]
    write_folds(Folds(2, 0, {"049": 0}), imported / "folds.json")
    with checkpoint_predictor(adapters, base) as predictor:
        for folds, fold in ((None, None), (imported / "folds.json", 0)):
            assert chosen_cases(cases, folds, fold, predictor).about["trained_on"] == "perhaps"
            assert "it may have seen any of these cases" in capsys.readouterr().err


def test_what_is_not_the_authors_is_refused(tmp_path: Path, imported: Path) -> None:
    torch.save(build_sam(AUTHORS).state_dict(), tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"has no image_encoder\.att_down_projection"):
        import_authors(tmp_path / "sam.pth", tmp_path / "run")
    torch.save(golden_state() | {"extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra\)"):
        import_authors(tmp_path / "more.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(OutputError, match="--overwrite"):
        import_authors(tmp_path / "more.pth", imported)


@torch.inference_mode()
def test_the_order_of_padding_matters(image: torch.Tensor) -> None:
    """Were it ignored, the golden embedding would be missed by far more than the tolerance."""
    embedding = rebuilt(pad_before_norm=False).sam.image_encoder(image)
    error = np.abs(embedding[..., ::4, ::4].numpy() - np.load(GOLDEN)["embedding"]).max()
    assert error > 100 * TOLERANCE
