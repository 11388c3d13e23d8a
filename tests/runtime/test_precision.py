"""Which of a bundle's precisions answers: the one asked for, or nothing in its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper

from samihs_runtime.backends.choose import choose
from samihs_runtime.bundle import Bundle, write_bundle
from samihs_runtime.bundle.entries import GraphEntry
from samihs_runtime.cli import main
from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter

from .planted_gpu import PlantedCuda
from .planted_tensorrt import plant_engines, plant_tensorrt


@pytest.fixture
def both(bundle: Bundle, tmp_path: Path) -> Bundle:
    """With graphs called int8 beside the float32 ones: their mask is half as wide a spread."""
    names = [f"onnx/{part}.int8.onnx" for part in ("encoder", "decoder")]
    for name, part in zip(names, ("encoder", "decoder"), strict=True):
        model = onnx.load(getattr(bundle.graph("onnx"), part))
        for tensor in model.graph.initializer:
            if (part, tensor.name) == ("decoder", "spread"):
                half = np.asarray(numpy_helper.to_array(tensor) / 2)
                tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
        onnx.save(model, bundle.root / name)
    graphs = (*bundle.manifest.graphs, GraphEntry("onnx", "int8", *names))
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs)
    return write_bundle(bundle.root, manifest, tmp_path / "both")


def logits(bundle: Bundle, hu: NDArray[np.float32], precision: str | None) -> NDArray[np.float32]:
    with Segmenter.from_bundle(bundle.root, "cpu", precision=precision) as segmenter:
        prompt = Prompt(points=((40, 24),), labels=(1,))
        return segmenter.predict(segmenter.encode(hu), prompt).logits


def test_the_precision_asked_for_answers(both: Bundle, bright_slice: NDArray[np.float32]) -> None:
    own, fp32, int8 = (logits(both, bright_slice, each) for each in (None, "fp32", "int8"))
    np.testing.assert_array_equal(own, fp32)
    assert np.abs(int8 - fp32).max() > 1


def test_embeddings_of_two_precisions_are_not_mixed(both: Bundle) -> None:
    assert len({both.id, both.with_precision("int8").id, both.with_precision("fp32").id}) == 3
    assert both.with_precision(None) is both


def test_one_that_the_bundle_lacks_is_refused(both: Bundle) -> None:
    with pytest.raises(BundleError, match="no fp16 graphs, only fp32, int8; export it with"):
        Segmenter.from_bundle(both.root, "cpu", precision="fp16")


def test_engines_of_another_precision_are_passed_over(
    both: Bundle, monkeypatch: pytest.MonkeyPatch, cuda: PlantedCuda
) -> None:
    plant_tensorrt(monkeypatch, cuda)
    plant_engines(both)
    with choose(both.with_precision("fp32"), "tensorrt").backend as backend:
        assert "fp32" in backend.description
    with pytest.raises(BackendError, match="its precision is fp32, only int8 can be used"):
        choose(both.with_precision("int8"), "tensorrt")


def test_the_command_takes_one(both: Bundle, tmp_path: Path) -> None:
    from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

    study = tmp_path / "study"
    write_dicom(generate_study(3, PhantomOptions(matrix=64, slices=1)), study)
    arguments = [str(study), "--point", "30,30", "--bundle", str(both.root), "--backend", "cpu"]
    arguments += ["--out", str(tmp_path / "out"), "--format", "json", "--precision"]
    refused = CliRunner().invoke(main, [*arguments, "bf16"])
    assert refused.exit_code == 2
    assert "no bf16 graphs" in refused.stderr
    done = CliRunner().invoke(main, [*arguments, "int8"])
    assert done.exit_code == 0, done.output
