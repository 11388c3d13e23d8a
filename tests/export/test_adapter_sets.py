"""``samihs-export add-adapters``: adds a site to the session's bundle, or leaves it unchanged."""

from __future__ import annotations

import copy
import dataclasses
import errno
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from samihs_export import adapter_sets, cli
from samihs_export.engines.refit import refittable
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.onnx import export_decoder
from samihs_export.merge import MergeReport, merge
from samihs_runtime.backends.exchange import exchanged_graph
from samihs_runtime.bundle import Bundle, write_bundle
from samihs_runtime.bundle.tensor_file import read_tensors
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_training.checkpoints.checkpoint import save_adapters
from samihs_training.methods import FullFineTuning
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam

from .conftest import (
    ABOUT,
    OPTIONS,
    PR,
    SLICE,
    TINY,
    TINY_PYRAMID,
    Checkpoints,
    Exported,
    adapted_model,
    train_elsewhere,
    write_evaluation,
)
from .replaced import replace_tensors, site_tensors
from .test_cli import refused, run

FEW = dataclasses.replace(OPTIONS, parity_slices=2, reference_slices=1)
TYPES = {"F32": np.float32, "F16": np.float16}


@pytest.fixture(scope="module")
def site(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the session's base, trained elsewhere: other adapters, another decoder."""
    path = tmp_path_factory.mktemp("site") / "north.safetensors"
    model = adapted_model(PR)
    train_elsewhere(model, seed=11)
    about = {**ABOUT, "training_data": "a hospital in the north", "window": [0, 90]}
    save_adapters(path, model.sam, PR, checkpoints.base, about)
    write_evaluation(path, checkpoints.base)
    return path


@pytest.fixture(autouse=True)
def few_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_sets, "ExportOptions", lambda: FEW)


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.bundle.root, tmp_path / "bundle"))


def test_adapters_for_slices_of_another_size_are_refused(
    bundle: Path, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    path, about = tmp_path / "wide.safetensors", {**ABOUT, "recipe": {"data": {"size": 2 * SLICE}}}
    save_adapters(path, adapted_model(PR).sam, PR, checkpoints.base, about)
    before = contents(bundle)
    words = (f"takes slices of {SLICE} pixels", f"trained on {2 * SLICE}")
    refused(add(bundle, path, checkpoints.base, "--name", "wide", "--score-threshold", 0.1), *words)
    assert contents(bundle) == before


def add(bundle: Path, checkpoint: Path, base: Path, *more: object) -> object:
    paths = ("--checkpoint", checkpoint, "--base", base)
    return run("add-adapters", bundle, *paths, *(more or ("--name", "north")))


def contents(root: Path) -> dict[str, bytes]:
    found = sorted(each for each in root.rglob("*") if each.is_file())
    return {each.relative_to(root).as_posix(): each.read_bytes() for each in found}


def test_a_site_is_added_verified_and_replaced(
    bundle: Path, site: Path, checkpoints: Checkpoints, exported: Exported, tmp_path: Path
) -> None:
    before = contents(bundle)
    result = add(bundle, site, checkpoints.base)
    assert result.exit_code == 0, result.output
    opened = Bundle.open(bundle)
    (made,) = opened.manifest.adapter_sets
    assert made.training_data == "a hospital in the north"
    assert (made.window.low, made.window.high) == (0, 90)
    assert made.method["adapters"] == "pr"
    assert made.base_sha256 == exported.bundle.manifest.provenance["base_sha256"]
    assert [(e.family, e.precision) for e in made.tensors] == [("onnx", "fp32"), ("trt", "fp16")]
    assert [each["name"].split()[0] for each in made.parity["results"]] == ["merged", "onnx", "trt"]
    after = contents(bundle)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    # The same bytes as if onnx itself had replaced the tensors.
    tensors = read_tensors(bundle / made.tensors[0].path)
    for part in ("encoder", "decoder"):
        source = bundle / "onnx" / f"{part}.onnx"
        own = {k.partition("/")[2]: t for k, t in tensors.items() if k.startswith(part)}
        arrays = {n: np.frombuffer(t.data, TYPES[t.dtype]).reshape(t.shape) for n, t in own.items()}
        replace_tensors(source, arrays, tmp_path / "replaced.onnx")
        assert onnx.load_from_string(exchanged_graph(source, own)) == onnx.load(
            tmp_path / "replaced.onnx"
        )
    hu = np.random.default_rng(0).normal(40, 30, (SLICE, SLICE)).astype(np.float32)
    answers = []
    for name in (None, "north"):
        with Segmenter.from_bundle(bundle, "cpu", adapters=name) as segmenter:
            prompt = Prompt(points=((40, 40),), labels=(1,))
            answers.append(segmenter.predict(segmenter.encode(hu), prompt).logits)
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    verified = run("verify", bundle, "--backend", "cpu")
    assert verified.exit_code == 0, verified.output
    listed = next(each for each in verified.output.splitlines() if "│ north " in each)
    assert "pr" in listed
    assert "a hospital" in listed
    refused(add(bundle, site, checkpoints.base), "has adapters north already", "--replace")
    result = add(bundle, checkpoints.adapters, checkpoints.base, "--name", "north", "--replace")
    assert result.exit_code == 0, result.output
    (again,) = Bundle.open(bundle).manifest.adapter_sets
    assert again.training_data == ABOUT["training_data"]
    assert not [name for name in made.files if (bundle / name).exists()]


def test_adapters_that_do_not_fit_leave_the_bundle_unchanged(
    bundle: Path, site: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)
    refused(add(bundle, site, checkpoints.other_base), "sha256", "give the base")
    elsewhere = bundle.with_name("elsewhere") / "south.safetensors"
    elsewhere.parent.mkdir()
    save_adapters(elsewhere, adapted_model(PR).sam, PR, checkpoints.other_base, ABOUT)
    write_evaluation(elsewhere, checkpoints.other_base)
    refused(add(bundle, elsewhere, checkpoints.other_base), "sets share the bundle's base")
    refused(add(bundle, bundle / "parity.json", checkpoints.base), "no readable safetensors")
    refused(add(bundle, site, checkpoints.base, "--name", "a/b"), "adapter set name 'a/b'")
    refused(add(bundle / "onnx", site, checkpoints.base), "is no bundle")

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        refused(add(bundle, site, checkpoints.base), "No space left on device")
    assert contents(bundle) == before


def test_a_dropped_bias_fails_the_gate(
    bundle: Path, site: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a refitter that treats GEMM biases as zero."""
    original = adapter_sets._tensors

    def dropped(*given: object) -> dict[str, torch.Tensor]:
        tensors = original(*given)
        name = "encoder/blocks.1.mlp.lin1.bias"
        return {**tensors, name: torch.zeros_like(tensors[name])}

    before = contents(bundle)
    monkeypatch.setattr(adapter_sets, "_tensors", dropped)
    words = "between blocks.1.mlp.lin1 and blocks.1.mlp.lin2"
    result = add(bundle, site, checkpoints.base)
    refused(result, "onnx fp32 in ONNX Runtime", words, "nothing was written")
    assert contents(bundle) == before


def test_a_method_that_changes_more_is_refused(
    bundle: Path, site: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(model: SamihsModel) -> tuple[SamihsModel, MergeReport]:
        merged, report = merge(model)
        return merged, dataclasses.replace(report, kept=("blocks.0.bottleneck",))

    monkeypatch.setattr(adapter_sets, "merge", kept)
    refused(add(bundle, site, checkpoints.base), "blocks.0.bottleneck", "a bundle of its own")


def test_full_fine_tuning_is_refused_before_it_is_merged(
    bundle: Path, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no adapters to merge, but every layer has changed."""
    path = tmp_path / "full.safetensors"
    save_adapters(path, build_sam(TINY), FullFineTuning(), checkpoints.base, ABOUT)
    write_evaluation(path, checkpoints.base)
    monkeypatch.setattr(adapter_sets, "merge", lambda model: pytest.fail("it was merged"))
    refused(add(bundle, path, checkpoints.base), "method full changes more", "a bundle of its own")


def test_graphs_with_external_weights_take_no_sets(
    bundle: Path, site: Path, checkpoints: Checkpoints
) -> None:
    manifest = Bundle.open(bundle).manifest
    (bundle / "onnx/encoder.onnx.data").write_bytes(b"weights")
    write_bundle(bundle, manifest, bundle)
    refused(add(bundle, site, checkpoints.base), "beside it (onnx/encoder.onnx.data)")


@pytest.mark.parametrize("config", [TINY, TINY_PYRAMID])
def test_every_trained_tensor_of_the_decoder_can_be_exchanged(
    config: object, tmp_path: Path
) -> None:
    graph = DecoderGraph(merge(adapted_model(PR, config=config))[0], SLICE)  # type: ignore[arg-type]
    export_decoder(graph, config, tmp_path / "decoder.onnx")  # type: ignore[arg-type]
    names = refittable(onnx.load(tmp_path / "decoder.onnx").graph)
    assert sorted(names) == sorted(name for name, _ in graph.named_parameters())


def test_a_site_has_its_own_threshold(tmp_path: Path) -> None:
    """Its tensors in another's graph answer as its own graph does, above a threshold of its own."""
    ours = adapted_model(PR, config=TINY_PYRAMID)
    theirs = copy.deepcopy(ours)
    train_elsewhere(theirs, seed=3)
    paths = [tmp_path / f"{name}.onnx" for name in ("ours", "theirs", "exchanged")]
    for model, path in zip((ours, theirs), paths, strict=False):
        export_decoder(DecoderGraph(merge(model)[0], SLICE), TINY_PYRAMID, path)
    replace_tensors(paths[0], site_tensors(paths[1]), paths[2])
    thresholds = [site_tensors(each)["cells.mask_threshold.logit"].item() for each in paths]
    assert thresholds == [-0.75, 0.5, 0.5]
    rng = np.random.default_rng(0)
    side = TINY_PYRAMID.mask_size
    grid = (1, TINY_PYRAMID.embedding_channels, TINY_PYRAMID.grid, TINY_PYRAMID.grid)
    given = {
        "embedding": rng.normal(size=grid).astype(np.float32),
        "points": np.array([[[40, 50], [0, 0]]], np.float32),
        "labels": np.array([[1, -1]], np.int32),
        "prior": np.zeros((1, 1, side, side), np.float32),
        "has_prior": np.zeros(1, np.float32),
    }
    own, expected, answered = (
        onnxruntime.InferenceSession(each).run(["logits"], given)[0] for each in paths
    )
    assert np.allclose(answered, expected, atol=1e-5)
    assert not np.allclose(answered, own, atol=1e-2)


def test_the_command_is_listed() -> None:
    assert "add-adapters" in cli.main.commands
