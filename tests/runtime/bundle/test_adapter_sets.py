"""Other sites' adapters in one bundle: named, checked, and put in the place of the bundle's own."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from samihs_runtime.backends.choose import choose
from samihs_runtime.backends.exchange import exchanged_graph, exchanged_tensors
from samihs_runtime.backends.sidecar import EngineSidecar
from samihs_runtime.bundle import Bundle, WindowRule, write_bundle
from samihs_runtime.bundle.entries import AdapterSet, AdapterTensors
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.bundle.sets import add_set
from samihs_runtime.bundle.tensor_file import RawTensor, read_tensors
from samihs_runtime.cli import main
from samihs_runtime.errors import BackendError, BundleError, OutputError
from samihs_runtime.folder_lock import held_alone
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_tensorrt import PlantedTensorRT, plant_engines, plant_tensorrt
from tests.runtime.tiny_model import write_tiny_bundle

CHANGED = {"encoder/one": 0.9, "decoder/spread": 40.0, "decoder/eight": 6.0}
"""Constants of the tiny model, as another site has them."""
SITE = AdapterSet(
    name="north",
    base_sha256="0" * 64,
    training_data="a hospital in the north",
    window=WindowRule("fixed", 5.0, 95.0),
    score_threshold=0.25,
    tensors=tuple(
        AdapterTensors(family, "fp32", "adapters/north/fp32.safetensors")
        for family in ("onnx", "trt")
    ),
    reference="adapters/north/reference.npz",
    method={"adapters": "lora", "rank": 4},
    provenance={"adapters_sha256": "1" * 64, "prompts": {"points": 1, "boxes": False}},
)


def tensors(folder: Path, changed: dict[str, float] = CHANGED) -> Path:
    path = folder / "site.safetensors"
    save_file({name: np.float32(value)[...] for name, value in changed.items()}, path)
    return path


def files(folder: Path, changed: dict[str, float] = CHANGED) -> dict[str, Path]:
    reference = folder / "reference.npz"
    reference.write_bytes(b"answers")
    return {SITE.tensors[0].path: tensors(folder, changed), SITE.reference: reference}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return add_set(Bundle.open(tiny_bundle), SITE, files(tmp_path))


def rewritten(bundle: Bundle, part: str) -> bytes:
    """The graph with the site's constants, as onnx itself writes them."""
    model = onnx.load(getattr(bundle.graph("onnx"), part))
    for tensor in model.graph.initializer:
        if f"{part}/{tensor.name}" in CHANGED:
            value = np.float32(CHANGED[f"{part}/{tensor.name}"])
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), tensor.name))
    return bytes(model.SerializeToString())


def answer(segmenter: Segmenter, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    prompt = Prompt(points=((40, 24),), labels=(1,))
    return segmenter.predict(segmenter.encode(hu), prompt).logits


def site_answer(bundle: Bundle, hu: NDArray[np.float32], scratch: Path) -> NDArray[np.float32]:
    """Of a bundle that was exported with the site's constants and window."""
    other = write_tiny_bundle(scratch / "w", scratch / "other", window=SITE.window)
    for part in ("encoder", "decoder"):
        getattr(other.graph("onnx"), part).write_bytes(rewritten(bundle, part))
    whole = write_bundle(other.root, other.manifest, scratch / "whole")
    with Segmenter.from_bundle(whole.root, "cpu") as segmenter:
        return answer(segmenter, hu)


def test_a_site_answers_as_its_own_export_would(
    bundle: Bundle, bright_slice: NDArray[np.float32], tmp_path: Path
) -> None:
    with Segmenter.from_bundle(bundle.root, "cpu") as segmenter:
        own = answer(segmenter, bright_slice)
    with Segmenter.from_bundle(bundle.root, "cpu", adapters="north") as segmenter:
        theirs = answer(segmenter, bright_slice)
        about = segmenter.bundle.manifest
    np.testing.assert_array_equal(theirs, site_answer(bundle, bright_slice, tmp_path))
    assert np.abs(theirs - own).max() > 1
    assert (about.name, about.score_threshold) == ("tiny+north", 0.25)
    assert about.training_data == SITE.training_data
    assert (about.method, about.provenance) == (SITE.method, SITE.provenance)


def test_a_mirrored_bundle_stays_mirrored_with_other_adapters(bundle: Bundle) -> None:
    """Mirroring is in the graphs, which all sets share."""
    mirrored = dataclasses.replace(bundle.manifest, method={"adapters": "pr", "mirrored": True})
    chosen = dataclasses.replace(bundle, manifest=mirrored).with_adapters("north")
    assert chosen.manifest.mirrored
    assert chosen.manifest.method == {**SITE.method, "mirrored": True}


def test_embeddings_of_two_sites_are_not_mixed(bundle: Bundle) -> None:
    assert bundle.with_adapters("north").id != bundle.id
    assert bundle.with_adapters(None) is bundle


def test_unknown_adapters_are_named_with_those_there_are(
    bundle: Bundle,
) -> None:
    with pytest.raises(BundleError, match=r"no adapters 'south': there are north \(lora\)"):
        Segmenter.from_bundle(bundle.root, "cpu", adapters="south")
    manifest = dataclasses.replace(bundle.manifest, adapter_sets=())
    plain = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(BundleError, match="there are none"):
        plain.with_adapters("north")


def test_the_command_takes_a_name(bundle: Bundle, tmp_path: Path) -> None:
    from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

    study = tmp_path / "study"
    write_dicom(generate_study(3, PhantomOptions(matrix=64, slices=1)), study)
    arguments = [str(study), "--point", "30,30", "--bundle", str(bundle.root), "--backend", "cpu"]
    arguments += ["--out", str(tmp_path / "out"), "--format", "json"]
    result = CliRunner().invoke(main, [*arguments, "--adapters", "south"])
    assert result.exit_code == 2
    assert "no adapters 'south': there are north" in result.stderr
    result = CliRunner().invoke(main, [*arguments, "--adapters", "north"])
    assert result.exit_code == 0, result.output
    report = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert report["model"]["bundle"] == "tiny+north"
    assert report["model"]["training_data"] == SITE.training_data


def test_manifests_are_what_versions_before_the_field_read(
    tiny_bundle: Path, bundle: Bundle
) -> None:
    read = Manifest.from_json(bundle.manifest.to_json())
    assert read == bundle.manifest
    text = dataclasses.replace(read, adapter_sets=()).to_json()
    assert "adapter_sets" not in text
    assert Manifest.from_json(text).adapter_sets == ()
    assert "mask_cells" not in text
    assert Manifest.from_json(text).mask_cells == 4
    older = dataclasses.replace(read, adapter_sets=(dataclasses.replace(SITE, method={}),))
    assert "method" not in json.loads(older.to_json())["adapter_sets"][0]
    assert Manifest.from_json(older.to_json()) == older
    assert str(older.adapter_sets[0]) == "north"
    finer = dataclasses.replace(read, mask_cells=8)
    assert Manifest.from_json(finer.to_json()) == finer


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "../north", "adapter set name"),
        ("base_sha256", "abc", "base_sha256"),
        ("tensors", [], "each family and precision once"),
        ("reference", "/etc/passwd", "leave the bundle"),
        ("score_threshold", "high", "a finite number"),
        ("colour", "red", "unknown colour"),
    ],
)
def test_a_set_that_is_wrong_is_refused(bundle: Bundle, field: str, value: Any, words: str) -> None:
    raw = json.loads(bundle.manifest.to_json())
    raw["adapter_sets"][0][field] = value
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(json.dumps(raw))


def test_a_file_of_a_set_that_is_changed_or_not_listed(bundle: Bundle) -> None:
    raw = json.loads(bundle.manifest.to_json())
    del raw["files"][SITE.reference]
    path = bundle.root / "manifest.json"
    before = path.read_text()
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="of adapters north is not under 'files'"):
        Bundle.open(bundle.root)
    path.write_text(before)
    (bundle.root / SITE.tensors[0].path).write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"fp32\.safetensors has 7 bytes"):
        Bundle.open(bundle.root)


def contents(root: Path) -> dict[str, bytes]:
    found = sorted(each for each in root.rglob("*") if each.is_file())
    return {each.relative_to(root).as_posix(): each.read_bytes() for each in found}


@pytest.mark.parametrize("call", ["copyfile", "replace"])
def test_a_full_disk_leaves_the_old_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    opened, before = Bundle.open(tiny_bundle), contents(tiny_bundle)
    given = files(tmp_path)
    monkeypatch.setattr(shutil if call == "copyfile" else os, call, full)
    with pytest.raises(OutputError, match="No space left on device"):
        add_set(opened, SITE, given)
    assert contents(tiny_bundle) == before
    assert not (tiny_bundle / "adapters").exists()


def south(folder: Path) -> tuple[AdapterSet, dict[str, Path]]:
    """Another set, and its files."""
    made = dataclasses.replace(
        SITE,
        name="south",
        tensors=tuple(
            dataclasses.replace(each, path="adapters/south/fp32.safetensors")
            for each in SITE.tensors
        ),
        reference="adapters/south/reference.npz",
    )
    given = {name.replace("north", "south"): path for name, path in files(folder).items()}
    return made, given


def test_a_set_that_was_added_meanwhile_stays(tiny_bundle: Path, tmp_path: Path) -> None:
    """Both began with the same manifest, which lists neither."""
    opened = Bundle.open(tiny_bundle)
    add_set(opened, SITE, files(tmp_path))
    both = add_set(opened, *south(tmp_path))
    assert [each.name for each in both.manifest.adapter_sets] == ["north", "south"]
    with pytest.raises(BundleError, match="already has adapters north"):
        add_set(opened, SITE, files(tmp_path))


def test_a_set_for_what_is_another_bundle_by_now_is_refused(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(tiny_bundle)
    write_tiny_bundle(tmp_path / "anew", tiny_bundle, version="1")
    before = contents(tiny_bundle)
    with pytest.raises(BundleError, match="exported again since it was opened"):
        add_set(opened, SITE, files(tmp_path))
    assert contents(tiny_bundle) == before


def test_a_bundle_that_another_process_changes_is_left_alone(
    bundle: Bundle, tmp_path: Path
) -> None:
    before = contents(bundle.root)
    with held_alone(bundle.root, "changes the bundle"):
        with pytest.raises(OutputError, match="another process changes the bundle"):
            add_set(bundle, *south(tmp_path))
        with pytest.raises(OutputError, match="another process changes the bundle"):
            write_tiny_bundle(tmp_path / "anew", bundle.root, version="1")
    assert contents(bundle.root) == before


def test_what_an_attempt_left_that_was_killed_does_not_block_the_next(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    left = tiny_bundle / SITE.tensors[0].path
    left.parent.mkdir(parents=True)
    left.write_bytes(b"in par")
    made = add_set(Bundle.open(tiny_bundle), SITE, files(tmp_path))
    assert made.with_adapters("north").adapters == SITE
    with pytest.raises(OutputError, match="listed already"):
        add_set(made, SITE, files(tmp_path), replace=True)
    assert Bundle.open(tiny_bundle).id == made.id


def test_a_set_that_gives_way_leaves_no_files(bundle: Bundle, tmp_path: Path) -> None:
    made, given = south(tmp_path)
    after = add_set(bundle, dataclasses.replace(made, name="north"), given, replace=True)
    assert [each.files for each in after.manifest.adapter_sets] == [made.files]
    assert sorted(each.name for each in (bundle.root / "adapters").iterdir()) == ["south"]


def test_tensors_that_do_not_fit_the_graph(bundle: Bundle) -> None:
    path = bundle.graph("onnx").decoder
    faults = {
        "nothing is not stored": {"nothing": RawTensor("F32", (), b"abcd")},
        "spread is no F16 of 2": {"spread": RawTensor("F16", (), b"ab")},
        "spread is no F32 of 8": {"spread": RawTensor("F32", (2,), b"abcdefgh")},
    }
    for words, given in faults.items():
        with pytest.raises(BundleError, match=words):
            exchanged_graph(path, given)
    model = onnx.load(path)
    beside = path.with_name("beside.onnx")
    onnx.save(model, beside, save_as_external_data=True, size_threshold=0)
    with pytest.raises(BundleError, match="keeps its weights in a file beside it"):
        exchanged_graph(beside, {"spread": RawTensor("F32", (), b"abcd")})
    chosen = exchanged_tensors(bundle.with_adapters("north"), "onnx", "fp32", "decoder")
    assert chosen is not None
    assert exchanged_graph(path, chosen) == rewritten(bundle, "decoder")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (60).to_bytes(8, "little")
        + b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(60),
        (60).to_bytes(8, "little")
        + b'{"x":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}'.ljust(60)
        + b"12345678",
    ],
)
def test_a_file_that_holds_no_tensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BundleError, match="no tensors can be read"):
        read_tensors(tmp_path / "x")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> PlantedTensorRT:
    module = plant_tensorrt(monkeypatch, PlantedCuda())
    module.marked = tuple(name.partition("/")[2] for name in CHANGED)
    return module


def test_tensorrt_refits_right_after_loading(
    bundle: Bundle, trt: PlantedTensorRT, bright_slice: NDArray[np.float32]
) -> None:
    plant_engines(bundle, flags=("refittable",))
    answers = []
    for backend in ("cpu", "tensorrt"):
        with Segmenter.from_bundle(bundle.root, backend, adapters="north") as segmenter:
            answers.append(answer(segmenter, bright_slice))
    np.testing.assert_array_equal(answers[0], answers[1])


def test_an_engine_that_was_not_built_for_it_is_refused(
    bundle: Bundle, trt: PlantedTensorRT
) -> None:
    plant_engines(bundle)
    with choose(bundle, "tensorrt").backend:
        pass  # with the bundle's own adapters it serves
    site = bundle.with_adapters("north")
    words = "without --refittable, which adapters north need.*engines .* --refittable"
    with pytest.raises(BackendError, match=words):
        choose(site, "tensorrt")
    plant_engines(bundle, flags=("refittable",))
    trt.marked = ()
    with pytest.raises(BackendError, match="without refittable weights"):
        choose(site, "tensorrt")
    trt.marked = ("one", "spread")
    with pytest.raises(BackendError, match=r"other weights than the adapters \(eight\)"):
        choose(site, "tensorrt")


def test_sidecars_of_older_versions_stay_valid(bundle: Bundle) -> None:
    plant_engines(bundle, flags=("refittable",), build_seconds=2.5)
    path = bundle.engines / "encoder.json"
    assert EngineSidecar.read(path).refittable
    raw = json.loads(path.read_text())
    assert raw.pop("flags") == ["refittable"]
    assert raw.pop("build_seconds") == 2.5
    path.write_text(json.dumps(raw))
    older = EngineSidecar.read(path)
    assert (older.refittable, older.build_seconds) == (False, None)


def test_adapters_without_tensors_for_a_precision_are_refused(
    bundle: Bundle, trt: PlantedTensorRT
) -> None:
    only = dataclasses.replace(SITE, tensors=SITE.tensors[:1])
    opened = dataclasses.replace(bundle, adapters=only)
    plant_engines(bundle, flags=("refittable",))
    with pytest.raises(BackendError, match="no tensors for the trt fp32 graphs, only for onnx"):
        choose(opened, "tensorrt")
