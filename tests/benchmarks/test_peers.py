"""The rivals in the comparison of speed: given the same input, they must answer the same."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import peers
import peers_copies
import pytest
import torch
import trial_bundle
from peers_inputs import (
    FRAMES,
    SIZE,
    config_of,
    grey_of,
    picture_of,
    points_of,
    sam_of,
    slice_of,
    write_random,
)
from peers_predictor import OnnxDecoder, eager, write_decoder
from peers_transformers import Transformers, name_of, renamed, write_weights
from PIL import Image
from tables import EAGER

from samihs_runtime.segmentation import FOREGROUND, NOT_A_POINT
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig

TINY = SamConfig(
    "tiny", width=32, depth=2, heads=2, global_blocks=(1,), image_size=64, window=3,
    prompt_width=32, decoder_heads=2, decoder_mlp=48, score_hidden=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes and random weights of a tiny SAM."""
    home = tmp_path_factory.mktemp("peers")
    write_random(home, TINY)
    return home


@pytest.fixture(scope="module")
def reference(folder: Path) -> np.ndarray:
    subject = eager(folder, "eager fp32")
    subject.encode(0)
    subject.click(2, 0)
    return subject.logits(0)


def test_sizes_come_back_as_they_were_written(folder: Path) -> None:
    assert config_of(folder) == TINY
    assert all(each.any() for each in sam_of(folder).parameters())  # no tensor is zero


def test_autocast_answers_nearly_the_same(folder: Path, reference: np.ndarray) -> None:
    subject = eager(folder, "bf16 autocast")
    subject.encode(0)
    subject.click(1, 0)
    assert reference.shape == (16, 16)
    assert 0 < peers.relative_difference(subject.logits(0), reference) < 0.2


@pytest.mark.filterwarnings("ignore")  # torch's older exporter, which segment-anything needs
def test_their_onnx_decoder_answers_with_the_best_of_three_masks(folder: Path) -> None:
    write_decoder(folder)
    subject = OnnxDecoder(folder)
    subject.encode(0)
    subject.click(2, 0)
    _, scores, low = subject.eager.predictor.predict(
        points_of(1, 0), np.ones(1), multimask_output=True
    )
    best = low[int(np.argmax(scores))]
    assert peers.relative_difference(subject.logits(0), best) < peers.MOST_DIFFERENT


def test_parameters_of_the_transformers_library_have_names_of_their_own(folder: Path) -> None:
    state = sam_of(folder).state_dict()
    found = renamed(state)
    assert len(found) == len(state) + 1  # one tensor is there twice
    assert name_of("image_encoder.blocks.1.norm1.weight") == (
        "vision_encoder.layers.1.layer_norm1.weight"
    )
    assert name_of("mask_decoder.transformer.layers.0.mlp.lin1.bias") == (
        "mask_decoder.transformer.layers.0.mlp.lin1.bias"
    )
    assert name_of("mask_decoder.output_hypernetworks_mlps.3.layers.1.weight") == (
        "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight"
    )
    assert name_of("mask_decoder.iou_prediction_head.layers.2.bias") == (
        "mask_decoder.iou_prediction_head.proj_out.bias"
    )
    assert not any(old in key for key in found for old in (".blocks.", ".norm", "neck.0"))


@pytest.mark.filterwarnings("ignore")
def test_the_transformers_library_answers_the_same(
    folder: Path, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)  # a stand-in; this subject's worker has none
    pytest.importorskip("transformers")
    write_weights(folder)
    subject = Transformers(folder)
    subject.encode(0)
    subject.click(2, 0)
    assert peers.relative_difference(subject.logits(0), reference) < peers.MOST_DIFFERENT


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeError, match=r"transformers library is not installed.*pip install"):
        Transformers(folder)


def test_a_missing_copy_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="its frame is 1024 px, this comparison's 64 px"):
        peers_copies.mobile_sam(folder)
    monkeypatch.setattr(peers_copies, "FRAME", 64)
    monkeypatch.delenv("MOBILE_SAM", raising=False)
    with pytest.raises(RuntimeError, match="set MOBILE_SAM to its folder"):
        peers_copies.mobile_sam(folder)
    monkeypatch.setenv("MOBILE_SAM", str(tmp_path))
    with pytest.raises(RuntimeError, match="MOBILE_SAM: no package mobile_sam in that folder"):
        peers_copies.mobile_sam(folder)


SOURCES = {
    "mobile_sam": """
from timm.models.layers import DropPath, to_2tuple, trunc_normal_
from timm.models.registry import register_model
class Dropped(DropPath):
    def __init__(self):
        super().__init__(drop_prob=0.0)
@register_model
def answer():
    return to_2tuple(3), Dropped()(5)
""",
    "segment_anything_fast": """
import triton
import triton.language as tl
@triton.jit
def kernel(SIZE: tl.constexpr):
    pass
def answer():
    return (3, 3), 5
""",
}
"""What the copies' modules import from packages that are not installed."""


@pytest.mark.parametrize("package", SOURCES)
def test_a_copy_is_imported_without_what_it_never_runs(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(SOURCES[package])
    monkeypatch.setenv(peers_copies.COPIES[package], str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with peers_copies.standing_in({**peers_copies._timm(), **peers_copies._triton()}):
        imported = peers_copies._copy(package)
    monkeypatch.delitem(sys.modules, package)
    assert imported.answer() == ((3, 3), 5)
    assert not {"timm", "timm.models", "triton", "triton.language"} & set(sys.modules)


def test_a_stand_in_is_forgotten() -> None:
    name = "samihs_no_such_package"
    with peers_copies.standing_in({name: ModuleType(name), "json": ModuleType("json")}):
        assert importlib.import_module(name)
        assert importlib.import_module("json").dumps  # what was there before stays
    assert importlib.util.find_spec(name) is None


def test_a_difference_is_relative_to_the_largest_value() -> None:
    reference = np.array([[1.0, -4.0]])
    assert peers.relative_difference(np.array([[1.0, -3.0]]), reference) == 0.25
    assert peers.relative_difference(np.zeros((2, 2)), reference) == float("inf")


def test_a_slice_is_the_picture_and_stays_one_when_it_is_enlarged() -> None:
    grey = (slice_of(3) + 20) * (255 / 120)
    assert np.abs(grey - picture_of(3)[..., 0]).max() < 1e-4
    image = Image.fromarray(grey_of(3))
    values = np.asarray(image.resize((2 * SIZE, 2 * SIZE), Image.Resampling.BILINEAR), np.float32)
    exact = image.convert("F").resize((2 * SIZE, 2 * SIZE), Image.Resampling.BILINEAR)
    assert np.abs(values - np.asarray(exact)).max() < 1e-3


@pytest.mark.parametrize("side", FRAMES)
def test_this_projects_model_is_given_the_same_and_answers_the_same(
    side: int, tmp_path: Path
) -> None:
    """The torch model; the tests of exported graphs compare these with it."""
    config = replace(trial_bundle.TINY, image_size=side)
    model = SamihsModel(write_random(tmp_path, config), config).eval()
    theirs = eager(tmp_path, "eager fp32")
    theirs.encode(0)
    points = torch.from_numpy(np.stack([points_of(1, 0), np.zeros((1, 2))], axis=1)).float()
    labels = torch.tensor([[FOREGROUND, NOT_A_POINT]], dtype=torch.int32)
    with torch.inference_mode():
        hu = torch.from_numpy(slice_of(0))[None, None]
        embedding = model.encode(hu, torch.tensor([[peers.WINDOW.low, peers.WINDOW.high]]))
        logits, _ = model.decode(embedding, points, labels, slice_size=SIZE)
    found = peers.relative_difference(logits[0, 0].numpy(), theirs.logits(0))
    assert found < 0.1 * peers.MOST_DIFFERENT


def test_a_frame_at_which_pictures_differ_is_refused() -> None:
    with pytest.raises(SystemExit, match="image size 256: answers can be compared at 512 or 1024"):
        peers.measure("tiny", image_size=256)


def test_a_subject_that_answers_differently_is_not_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers: SamPredictor, and a subject that is not available."""
    refused: dict[str, str] = {}
    with peers._started(folder, (EAGER, "MobileSAM"), refused) as (workers, cold):
        assert list(workers) == list(cold) == [EAGER]
        process = workers[EAGER].process
        assert "its frame is 1024 px" in refused["MobileSAM"]
        assert peers._agreed(folder, workers, refused) == []
        assert {"samihs fp32", "SamPredictor compiled"} < set(peers.EQUAL)
        for name in peers.EQUAL:
            # A worker that poses as another implementation, but gives different answers.
            workers[name] = workers[EAGER]
            answers = iter([np.ones((4, 4)), np.full((4, 4), 0.998)])
            monkeypatch.setattr(np, "load", lambda path, answers=answers: next(answers))
            (found,) = peers._agreed(folder, workers, refused)
            assert found.subject == name
            assert found.samples == pytest.approx((0.002,))
            assert "differ from SamPredictor's by 0.002, relative" in refused[name]
            assert list(workers) == [EAGER]
    assert process.poll() is not None  # no process is left behind


def test_each_subject_is_compared_with_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An 8-bit encode has none, since it is not counted; no click runs under autocast."""
    own = {part: {"flop": 1, "bytes": 1, "type": "fp32"} for part in ("encode", "click")}
    whole, half = Path("whole"), Path("half")
    monkeypatch.setattr(peers.Bundle, "open", lambda path: path)
    counted = {whole: own, half: {"click": own["click"]}}
    monkeypatch.setattr(peers.floors, "work_of_bundle", counted.__getitem__)
    work = peers._work(TINY, dict(zip(peers.OURS, (whole, half), strict=True)))
    encode, click = work["encode"], work["click, 1 prompt"]
    assert encode["samihs fp32"] == click["samihs int8"] == own["click"]
    assert "samihs int8" not in encode
    assert encode["SamPredictor bf16 autocast"]["type"] == "bf16"
    assert click["SamPredictor bf16 autocast"] == click[EAGER]
    assert click[EAGER]["type"] == "fp32"
    assert not {"MobileSAM", "segment-anything-fast"} & set(click)
    assert "MobileSAM" not in encode


def test_every_subject_gets_the_runtimes_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's OMP_NUM_THREADS would bind torch, and not ONNX Runtime."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SAMIHS_THREADS", "3")
    given: dict[str, dict[str, str]] = {}

    def started(command: object, *, env: dict[str, str], **named: object) -> None:
        given["env"] = env

    monkeypatch.setattr(peers.subprocess, "Popen", started)
    peers.Worker(Path("folder"), EAGER).complaints.close()
    assert (given["env"]["OMP_NUM_THREADS"], given["env"]["SAMIHS_THREADS"]) == ("3", "3")
