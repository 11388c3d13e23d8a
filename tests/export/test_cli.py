"""``samihs-export`` as users run it: bundle from checkpoints, verify without torch, bad input."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from samihs_export import pipeline
from samihs_export.cli import main
from samihs_export.engines import tensorrt
from samihs_export.metadata import BundleMetadata
from samihs_export.proof.export_proof import Proof
from samihs_export.proof.parity import ParityResult
from samihs_runtime.bundle import Bundle, GraphEntry, shipped_bundle, writing
from samihs_runtime.errors import BackendError, ExportError
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.evaluation.predictors import bundle_predictor, checkpoint_predictor

from .conftest import DATA, EVALUATION, OPTIONS, SLICE, TINY, Checkpoints, Exported


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def refused(result: Result, *words: str) -> None:
    """Exit 2, one line on stderr, no traceback."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_bundle_from_checkpoints(exported: Exported, checkpoints: Checkpoints) -> None:
    manifest, root = exported.bundle.manifest, exported.bundle.root
    assert (manifest.name, manifest.preset, manifest.clinical_use) == ("tiny", "tiny", False)
    assert (manifest.window.rule, manifest.window.low, manifest.window.high) == ("fixed", -20, 100)
    assert manifest.merge["layers"] == 2 * TINY.depth
    assert manifest.accuracy == json.loads(checkpoints.evaluation.read_text())
    assert manifest.score_threshold == 0.42
    assert manifest.provenance["score_threshold"] == "measured"
    assert set(manifest.provenance) >= {"base_sha256", "adapters_sha256", "tools"}
    assert (manifest.method["adapters"], manifest.method["rank"]) == ("pr", 8)
    card = (root / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Not for clinical use" in card
    assert "none: random weights" in card
    compared = [each["name"] for each in json.loads((root / "parity.json").read_text())["results"]]
    assert [" ".join(name.split()[:2]) for name in compared] == [
        "merged torch",
        "onnx fp32",
        "onnx int8",
        "trt fp16",
        "trt int8",
        "trt fp8",
    ]
    with bundle_predictor(root, "cpu") as predictor:
        assert predictor.trained_on == DATA  # whom not to judge it by
    assert root.stat().st_mode & 0o055 == 0o055  # others may read what is served
    page = (root / "REPORT.md").read_text(encoding="utf-8")
    assert "![worst cases](worst_cases.png)" in page
    assert all(f"| {name} |" in page for name in compared)
    assert 10_000 < manifest.files["worst_cases.png"].bytes < 300_000
    assert "REPORT.md" in manifest.files


def test_a_bundle_takes_slices_at_the_size_of_the_training(
    exported: Exported, checkpoints: Checkpoints
) -> None:
    """And so does the evaluation of its checkpoint: of any matrix both see the same."""
    assert exported.bundle.manifest.slice_size == SLICE
    hu = np.random.default_rng(3).normal(40, 30, (150, 130)).astype(np.float32)
    prompt = Prompt(((60.0, 80.0),), (FOREGROUND,))
    with (
        bundle_predictor(exported.bundle.root, "cpu") as served,
        checkpoint_predictor(checkpoints.adapters, checkpoints.base) as trained,
    ):
        assert served.ask is not None
        assert trained.ask is not None
        of_bundle, of_checkpoint = served.ask(hu, prompt), trained.ask(hu, prompt)
    np.testing.assert_allclose(of_bundle.logits, of_checkpoint.logits, atol=1e-3, rtol=1e-3)
    assert (of_bundle.mask == of_checkpoint.mask).mean() > 0.999


def test_verify_and_engines_need_no_torch(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")
    code = (
        "import sys\n"
        "for name in ('torch', 'safetensors', 'segment_anything'):\n"
        "    sys.modules[name] = None  # importing it raises ImportError\n"
        "from samihs_export import cli\n"
        "bundle, out = sys.argv[1:]\n"
        "cli.main(['verify', bundle], standalone_mode=False)\n"
        "engines = ['engines', bundle, '--target', 'sm89', '--out', out]\n"
        "cli.main(engines, standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported.bundle.root), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "intact" in done.stdout
    assert len(list(tmp_path.glob("*.engine"))) == 2


@pytest.mark.parametrize(
    ("checkpoint", "base", "words"),
    [
        ("missing.safetensors", "base", ["no checkpoint"]),
        ("text", "base", ["no readable safetensors"]),
        ("foreign", "base", ["no adapter checkpoint"]),
        ("base", "base", ["no adapter checkpoint"]),
        ("adapters", "adapters", ["base"]),
        ("adapters", "other_base", ["sha256", "give the base"]),
    ],
)
def test_checkpoints_that_do_not_fit(
    checkpoints: Checkpoints, tmp_path: Path, checkpoint: str, base: str, words: list[str]
) -> None:
    (tmp_path / "text").write_text("not a checkpoint")
    save_file({"x": Tensor([1.0])}, tmp_path / "foreign")
    places = [getattr(checkpoints, each, tmp_path / each) for each in (checkpoint, base)]
    out = tmp_path / "out"
    result = run("bundle", "--checkpoint", places[0], "--base", places[1], "--out", out)
    refused(result, *words)
    assert not out.exists()


def test_an_out_folder_that_is_not_a_bundle_is_left_alone(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    refused(run("bundle", *paths, "--out", tmp_path, "--untrained"), "no bundle")
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_weights_do_not_replace_the_shipped_bundle_unasked(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "check_destination", lambda *a, **k: pytest.fail("went on"))
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    for given in (paths, paths[:2], paths[2:]):
        refused(run("bundle", *given), "--out is missing", str(given[1]))


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "merge", lambda model: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    out = tmp_path / "file" / "in" / "it"
    refused(run("bundle", *paths, "--out", out, "--untrained"), "cannot write beside")


def test_other_sites_adapters_are_only_lost_with_overwrite(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(model: object) -> None:
        raise ExportError("export begins")

    monkeypatch.setattr(pipeline, "merge", stop)
    out = tmp_path / "out"
    for name in ("adapters/north/0/x", "engines/encoder.fp16.engine", "manifest.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base, "--untrained")
    refused(run("bundle", *paths, "--out", out), "would be lost: north", "--overwrite")
    result = run("bundle", *paths, "--out", out, "--overwrite")
    warning, error = result.stderr.splitlines()
    assert "its engines go: encoder.fp16.engine" in warning
    assert "export begins" in error


def test_adapters_that_are_added_while_the_bundle_is_copied_are_not_lost(
    checkpoints: Checkpoints, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported.bundle.root, out)
    hashed = writing.sha256_of

    def add_site(path: Path) -> str:
        (out / "adapters/north").mkdir(parents=True, exist_ok=True)
        return hashed(path)

    only_write(monkeypatch, exported)
    monkeypatch.setattr(writing, "sha256_of", add_site)
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base, "--untrained")
    refused(run("bundle", *paths, "--out", out), "would be lost: north", "--overwrite")
    assert (out / "adapters/north").is_dir()
    assert Bundle.open(out).id == exported.bundle.id
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def only_write(monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
    """An export whose graphs are those of the session's bundle, taken as they are."""

    def copy(folder: Path, *given: object) -> GraphEntry:
        shutil.copytree(exported.bundle.root / "onnx", folder / "onnx")
        return exported.bundle.manifest.graphs[0]

    def agrees(*given: object) -> ParityResult:
        return ParityResult("stand-in", 1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(pipeline, "families", lambda precisions: [("onnx", "fp32")])
    monkeypatch.setattr(pipeline, "write_graphs", copy)
    monkeypatch.setattr(Proof, "prove_graph", agrees)
    monkeypatch.setattr(pipeline, "draw_worst_cases", lambda *given: False)
    monkeypatch.setattr(pipeline, "ExportOptions", lambda **given: OPTIONS)


def test_the_current_folder_names_the_bundle(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(
        model: object, about: BundleMetadata, out: Path, *given: object, **named: object
    ) -> None:
        raise ExportError(f"{about.name} goes to {out}")

    monkeypatch.setattr(pipeline, "export_bundle", stop)
    monkeypatch.chdir(tmp_path)
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    refused(run("bundle", *paths, "--out", "."), f"{tmp_path.name} goes to {tmp_path}")


def test_a_target_gets_engines_of_every_precision(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shipped = [], Bundle.open(shipped_bundle())

    def build(*given: object, precision: str, **named: object) -> None:
        asked.append(precision)

    monkeypatch.setattr(pipeline, "export_bundle", lambda *given, **named: shipped)
    monkeypatch.setattr(tensorrt, "choose_flavour", lambda: None)
    monkeypatch.setattr(tensorrt, "build_engines", build)
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    more = ("--precision", "fp16,int8", "--target", "sm89", "--out", tmp_path / "out")
    result = run("bundle", *paths, *more)
    assert result.exit_code == 0, result.output
    assert asked == ["fp16", "int8"]


@pytest.mark.parametrize(
    "text",
    [None, "no json", "[1]", '{"dice": 0.5}', '{"score_threshold": 0.4, "weights": "unknown"}'],
)
def test_a_file_that_is_not_an_evaluation_is_refused(
    checkpoints: Checkpoints, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "summary.json"
    if text is not None:
        path.write_text(text)
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    result = run("bundle", *paths, "--evaluation", path, "--out", tmp_path / "out")
    refused(result, "summary.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of", ["these weights", "other weights", "weights that it does not name"])
def test_figures_go_with_the_weights_they_were_measured_on(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    def stop(*given: object, **named: object) -> None:
        raise ExportError("export begins")

    monkeypatch.setattr(pipeline, "export_bundle", stop)
    figures = json.loads(checkpoints.evaluation.read_text())
    if of == "other weights":
        figures["weights"]["adapters_sha256"] = 64 * "0"
    elif of != "these weights":
        figures = EVALUATION
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(figures))
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    result = run("bundle", *paths, "--evaluation", path, "--out", tmp_path / "out")
    command = f"samihs-evaluate --checkpoint {checkpoints.adapters} --base {checkpoints.base}"
    if of == "other weights":
        refused(result, "other weights", command)
    elif of == "these weights":
        refused(result, "export begins")
    else:
        warning, error = result.stderr.splitlines()
        assert warning.startswith(f"warning: {path}")
        assert command in warning
        assert "export begins" in error


def test_unknown_precision_is_refused_before_any_work(tmp_path: Path) -> None:
    result = run("bundle", "--out", tmp_path / "out", "--precision", "fp16,fp4")
    refused(result, "unknown precision 'fp4'", "int8")
    assert not (tmp_path / "out").exists()


def test_unknown_target_is_refused_before_any_work(tmp_path: Path) -> None:
    refused(run("bundle", "--out", tmp_path / "out", "--target", "sm13"), "unknown target 'sm13'")
    assert not (tmp_path / "out").exists()


def test_a_folder_for_engines_without_a_target_is_refused_before_any_work(tmp_path: Path) -> None:
    out, engines = tmp_path / "out", tmp_path / "engines"
    refused(run("bundle", "--out", out, "--engines", engines), "--engines", "--target")
    assert not out.exists()


def test_engines_without_a_builder(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(flavour: str) -> None:
        raise BackendError(f"{flavour} is not installed")

    monkeypatch.setattr(tensorrt, "import_flavour", missing)
    before = sorted(exported.bundle.root.rglob("*"))
    refused(run("engines", exported.bundle.root, "--target", "sm89"), "no TensorRT builder")
    assert sorted(exported.bundle.root.rglob("*")) == before


def test_bundle_with_a_target_and_no_builder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flavour: str) -> None:
        raise BackendError(f"{flavour} is not installed")

    monkeypatch.setattr(tensorrt, "import_flavour", missing)
    refused(run("bundle", "--out", tmp_path / "out", "--target", "sm89"), "no TensorRT builder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["while graphs are written", "while the bundle is copied"])
def test_a_full_disk_leaves_the_old_bundle(
    checkpoints: Checkpoints,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    only_write(monkeypatch, exported)
    if where == "while graphs are written":
        monkeypatch.setattr(pipeline, "write_graphs", full)
    else:
        monkeypatch.setattr(writing, "sha256_of", full)
    out = tmp_path / "out"
    out.mkdir()
    old = (exported.bundle.root / "manifest.json").read_bytes()
    (out / "manifest.json").write_bytes(old)
    paths = ("--checkpoint", checkpoints.adapters, "--base", checkpoints.base)
    refused(run("bundle", *paths, "--out", out, "--untrained"), "No space left on device")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert {each.name: each.read_bytes() for each in out.iterdir()} == {"manifest.json": old}


@pytest.mark.parametrize("command", ["engines", "verify"])
def test_no_such_bundle(tmp_path: Path, command: str) -> None:
    refused(run(command, tmp_path / "nowhere"), "no bundle")


def test_changed_byte(exported: Exported, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported.bundle.root, copy)
    path = copy / "onnx" / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(run("verify", copy), "was changed")
