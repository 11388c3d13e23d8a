"""``make bench-gpu``: fails without a GPU, and its code runs from end to end on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
def test_the_whole_table_on_a_tiny_model(tmp_path: Path) -> None:
    where = ("--device", "cpu", "--model", "tiny", "--slice-size", "128", "--brief")
    done = run(*where, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads(next(tmp_path.glob("no-gpu-*.json")).read_text())
    rows = record["rows"]
    assert list(rows) == ["eager fp32", "cpu fp32", "autocast bf16"]
    assert record["versions"]["torch"]
    for name, figures in rows.items():
        assert figures["encode"]["8"]["p50_ms"] > 0, name
        assert figures["encode"]["8"]["of_matrix_rate"] > 0, name
        assert set(figures["click"]) == {"1", "2", "8"}
        assert figures["click"]["1"]["p50_ms"] <= figures["click"]["1"]["p99_ms"]
    assert rows["cpu fp32"]["series_s"] > 0
    assert rows["cpu fp32"]["parity"]["within_gates"], rows["cpu fp32"]["parity"]
    assert rows["autocast bf16"]["parity"]["embedding_relative"] > 0  # the comparison is not vain


@pytest.mark.slow
def test_a_row_that_the_time_does_not_reach_says_so(tmp_path: Path) -> None:
    where = ("--device", "cpu", "--model", "tiny", "--slice-size", "128", "--brief")
    done = run(*where, "--out", str(tmp_path), "--minutes", "0")
    assert done.returncode == 0, done.stderr
    record = json.loads(next(tmp_path.glob("no-gpu-*.json")).read_text())
    assert all("time was used up" in each["not_measured"] for each in record["rows"].values())
