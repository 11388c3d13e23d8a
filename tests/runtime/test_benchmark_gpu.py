"""``make bench-gpu``: fails without a GPU, and its code runs from end to end on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.errors import BackendError

from .planted_gpu import PlantedCuda
from .planted_onnx_runtime import REFUSAL, plant_onnx_runtime

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_without_a_gpu_it_fails_and_says_why(tmp_path: Path) -> None:
    if probe_gpus().devices:
        pytest.skip("this machine has a GPU")
    done = run("--out", str(tmp_path))
    assert done.returncode == 1
    assert "error: no NVIDIA GPU can be used: " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_onnx_runtime_has_a_row_with_graphs_and_one_without() -> None:
    listing = "import gpu, json; print(json.dumps(gpu._rows('cuda')))"
    command = [sys.executable, "-c", listing]
    where = ROOT / "benchmarks"
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert rows["cuda-graph fp32"] == ["gpu_runtime.py", "cuda-graph", "fp32"]
    assert rows["cuda-plain fp32"] == ["gpu_runtime.py", "cuda-plain", "fp32"]
    assert list(rows)[:3] == ["eager fp32", "tensorrt fp16", "cuda-graph fp32"]
    assert sum(name.startswith("cuda") for name in rows) == 2  # bundles have its graphs in fp32


def test_a_row_named_for_graphs_is_not_measured_without(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    runtime = importlib.import_module("gpu_runtime")
    planted = plant_onnx_runtime(monkeypatch, PlantedCuda())
    with runtime.open_segmenter(tiny_bundle, "cuda-graph") as segmenter:
        runtime.warm_up(segmenter, "cuda-graph")
        assert segmenter.backend.graphs["decoder"].shapes == 23
    with runtime.open_segmenter(tiny_bundle, "cuda-plain") as segmenter:
        runtime.warm_up(segmenter, "cuda-plain")
        assert segmenter.backend.graphs["decoder"].shapes == 0
    planted.session_fault = REFUSAL
    with (
        runtime.open_segmenter(tiny_bundle, "cuda-graph") as segmenter,
        pytest.raises(BackendError, match=r"CUDA graphs are not replayed: encoder: .*cannot use"),
    ):
        runtime.warm_up(segmenter, "cuda-graph")
    assert not planted.cuda.live


def tiny_record(out: Path, *arguments: str) -> dict[str, Any]:
    """The table of a tiny model on the CPU, in few runs."""
    where = ("--device", "cpu", "--model", "tiny", "--slice-size", "128", "--brief")
    done = run(*where, "--out", str(out), *arguments)
    assert done.returncode == 0, done.stderr
    (written,) = out.glob("backends-tiny-no-gpu-*.json")
    record: dict[str, Any] = json.loads(written.read_text())
    return record


@pytest.mark.slow
def test_the_whole_table_on_a_tiny_model(tmp_path: Path) -> None:
    record = tiny_record(tmp_path)
    assert record["not_measured"] == {}
    samples = {(s["subject"], s["quantity"]): s["samples"] for s in record["series"]}
    for subject in ("torch eager fp32", "cpu fp32", "torch autocast bf16"):
        for quantity in ("encode, batch 8", "click, 1 prompt", "click, 2 prompts"):
            assert min(samples[subject, quantity]) > 0
    assert samples["cpu fp32", "32 slices from DICOM"][0] > 0
    parity = record["settings"]["parity"]
    assert parity["cpu fp32"]["within_gates"], parity["cpu fp32"]
    assert parity["autocast bf16"]["embedding_relative"] > 0  # the comparison is not vain
    work = record["settings"]["work"]["encode, batch 8"]
    assert work
    assert all(each["flop"] > 0 for each in work.values())


@pytest.mark.slow
def test_rows_that_the_time_does_not_reach_say_so(tmp_path: Path) -> None:
    record = tiny_record(tmp_path, "--minutes", "0")
    assert record["series"] == []
    assert len(record["not_measured"]) == 3
    assert all("time was used up" in why for why in record["not_measured"].values())
