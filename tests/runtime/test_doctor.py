"""samihs-doctor: what it finds, its advice, its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from samihs_runtime import diagnosis, doctor, environment
from samihs_runtime.backends import choose
from samihs_runtime.backends.base import Decoded
from samihs_runtime.backends.choose import Choice
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.backends.probe import Gpu, GpuProbe
from samihs_runtime.bundle import Bundle
from samihs_runtime.environment import conflicts

from .planted_gpu import GPU, PlantedCuda
from .planted_onnx_runtime import REFUSAL, plant_onnx_runtime
from .planted_tensorrt import plant_engines, plant_tensorrt


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(doctor.main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_working_backend_exits_0(tiny_bundle: Path) -> None:
    code, text = run("--bundle", str(tiny_bundle))
    assert code == 0
    assert "samihs-infer will use: " in text
    assert "tiny 0 (tiny)" in text
    assert "cpu: onnxruntime" in text


def test_json_says_the_same(tiny_bundle: Path) -> None:
    code, text = run("--bundle", str(tiny_bundle), "--json")
    data = json.loads(text)
    assert code == 0
    assert data["works"] is True
    cpu = next(each for each in data["backends"] if each["name"] == "cpu")
    assert cpu["works"]
    assert cpu["encode_s"] > 0
    assert data["packages"]["numpy"]


def test_nothing_works_without_onnxruntime_and_the_command_is_whole(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(environment.metadata, "version", missing)
    code, text = run("--bundle", str(tiny_bundle))
    assert code == 1
    assert "pip install 'samihs[cpu]'" in text
    assert "nothing works here yet" in text


def missing(name: str) -> str:
    raise environment.metadata.PackageNotFoundError(name)


def test_a_backend_that_breaks_is_told_and_hides_no_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = diagnosis.choose

    def choosing(bundle: Bundle, name: str = "auto") -> Choice:
        if name == "tensorrt":
            raise AttributeError("no such\nattribute")
        return real(bundle, name)

    monkeypatch.setattr(diagnosis, "choose", choosing)
    monkeypatch.setenv("SAMIHS_DEBUG", "0")
    code, text = run("--bundle", str(tiny_bundle))
    assert code == 0
    assert "tensorrt: internal error: AttributeError: no such attribute (--debug" in text
    assert "cpu: onnxruntime" in text
    assert "Traceback" not in text
    code, text = run("--bundle", str(tiny_bundle), "--debug")
    assert code == 0
    assert "Traceback" in text


def test_it_names_what_auto_takes_though_that_fails(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sick(FakeBackend):
        name = "tensorrt"

        def decode(self, *_: Any) -> Decoded:
            raise RuntimeError("no kernel")

    openers = dict(choose._openers())
    openers["tensorrt"] = lambda bundle, timings: Sick.for_manifest(bundle.manifest)
    monkeypatch.setattr(choose, "_openers", lambda: openers)
    code, text = run("--bundle", str(tiny_bundle))
    assert code == 0  # something does work
    assert "samihs-infer takes tensorrt, which fails as shown above: give --backend cpu" in text
    data = json.loads(run("--bundle", str(tiny_bundle), "--json")[1])
    assert data["chosen"] == "tensorrt"
    del openers["tensorrt"]
    code, text = run("--bundle", str(tiny_bundle))
    assert "samihs-infer will use: cpu" in text


def test_a_broken_bundle_is_part_of_the_diagnosis(tiny_bundle: Path) -> None:
    (tiny_bundle / "onnx/encoder.onnx").write_bytes(b"changed")
    code, text = run("--bundle", str(tiny_bundle))
    assert code == 1
    assert "bundle cannot be opened: " in text
    assert "onnx/encoder.onnx" in text


def test_engines_are_judged(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "1.7.1"

    plant_engines(Bundle.open(tiny_bundle))
    plant_engines(Bundle.open(tiny_bundle), compute_capability=("12.0",))
    monkeypatch.setattr(diagnosis, "probe_gpus", lambda: GPU)
    monkeypatch.setattr(diagnosis, "import_flavour", lambda flavour: Module)
    _, text = run("--bundle", str(tiny_bundle))
    assert "engine decoder: built for compute capability 12.0, this GPU has 8.9" in text
    assert f"samihs-export engines {tiny_bundle}" in text
    assert "GPU: Planted GPU, compute capability 8.9, 24 GiB (driver supports CUDA 13.0)" in text
    plant_engines(Bundle.open(tiny_bundle))
    _, text = run("--bundle", str(tiny_bundle))
    assert "engine decoder: fits" in text


def test_it_says_whether_cuda_graphs_are_replayed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant_onnx_runtime(monkeypatch, PlantedCuda())
    plant_engines(Bundle.open(tiny_bundle))
    plant_tensorrt(monkeypatch, PlantedCuda(supports_graphs=False))
    _, text = run("--bundle", str(tiny_bundle))
    assert "CUDA graphs: encoder 1 shape, decoder 1 shape" in text
    assert "CUDA graphs: encoder none (planted captures none" in text
    planted.session_fault = REFUSAL
    _, text = run("--bundle", str(tiny_bundle), "--json")
    states = {each["name"]: each["detail"] for each in json.loads(text)["backends"]}
    assert "CUDA graphs: encoder none ([ONNXRuntimeError] : 1 : FAIL : This" in states["cuda"]


def test_a_gpu_that_tensorrt_rtx_does_not_build_for_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = GpuProbe((Gpu(0, "Planted H100", "9.0", 80 << 30),), (13, 0), "")
    monkeypatch.setattr(diagnosis, "probe_gpus", lambda: hopper)
    monkeypatch.setattr(diagnosis, "installed", lambda: {"tensorrt-rtx-cu13": "1.7.1"})
    _, text = run("--bundle", str(tiny_bundle))
    assert "TensorRT-RTX builds no engine for compute capability 9.0" in text
    assert "pip install 'samihs[tensorrt]' --extra-index-url https://pypi.nvidia.com" in text
    monkeypatch.setattr(diagnosis, "probe_gpus", lambda: GPU)
    _, text = run("--bundle", str(tiny_bundle))
    assert "builds no engine" not in text


GOOD = {
    "onnxruntime-gpu": "1.31.0",
    "tensorrt-rtx-cu13": "1.7.1",
    "cuda-python": "13.0.0",
    "cuda-bindings": "13.0.0",
}


@pytest.mark.parametrize(
    ("packages", "driver", "problem", "mend"),
    [
        (
            {**GOOD, "onnxruntime": "1.32.0"},
            (13, 0),
            "overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'samihs[gpu]'",
        ),
        (
            {"tensorrt": "10.13.0", "cuda-bindings": "13.0.0"},
            (13, 0),
            "PyPI's stub",
            "pip install 'samihs[tensorrt]' --extra-index-url https://pypi.nvidia.com",
        ),
        (
            {
                "tensorrt": "11.3.0",
                "tensorrt-cu13": "11.3.0",
                "tensorrt-cu13-libs": "10.13.3",
                "cuda-bindings": "13.0.0",
            },
            (13, 0),
            "different major versions",
            "pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-libs",
        ),
        (
            {**GOOD, "cuda-bindings": "12.9.0"},
            (13, 0),
            r"different CUDA versions: .*tensorrt-rtx-cu13 \(CUDA 13\)",
            "pip uninstall -y cuda-bindings",
        ),
        (GOOD, (12, 4), "needs CUDA 13, the driver supports CUDA 12.4", "newer NVIDIA driver"),
        (
            {**GOOD, "nvidia-cudnn-cu12": "9.10.2"},
            (13, 0),
            r"onnxruntime-gpu 1.31.0 loads CUDA 13's libraries, .* nvidia-cudnn-cu12 \(CUDA 12\)",
            "pip uninstall -y nvidia-cudnn-cu12 && pip install nvidia-cudnn-cu13",
        ),
        (
            {"onnxruntime-gpu": "1.22.0", "nvidia-cudnn-cu13": "9.15.0", "pycuda": "2026.1"},
            (13, 0),
            r"onnxruntime-gpu 1.22.0 loads CUDA 12's libraries",
            "pip install nvidia-cudnn-cu12",
        ),
        (
            {"onnxruntime-gpu": "1.31.0", "pycuda": "2026.1"},
            (12, 8),
            "onnxruntime-gpu needs CUDA 13, the driver supports CUDA 12.8",
            "newer NVIDIA driver",
        ),
        ({"tensorrt-rtx-cu13": "1.7.1"}, (13, 0), "without cuda-python", "pip install cuda-python"),
        (
            {"onnxruntime-gpu": "1.31.0"},
            (13, 0),
            "onnxruntime-gpu is installed without cuda-python",
            "pip install cuda-python",
        ),
    ],
)
def test_known_conflicts_are_named_with_their_cure(
    packages: dict[str, str], driver: tuple[int, int], problem: str, mend: str
) -> None:
    import re

    found = conflicts(packages, driver)
    assert len(found) == 1
    assert re.search(problem, found[0].problem)
    assert mend in found[0].mend


@pytest.mark.parametrize("driver", [None, (13, 0), (14, 1)])
def test_a_sound_installation_has_no_conflict(driver: tuple[int, int] | None) -> None:
    assert conflicts(GOOD, driver) == []
    assert conflicts({"onnxruntime": "1.32.0"}, driver) == []
    assert conflicts({**GOOD, "nvidia-cudnn-cu13": "9.15.0"}, driver) == []
    unknown = {"onnxruntime-gpu": "1.25.0", "nvidia-cudnn-cu12": "9.10.2", "pycuda": "2026.1"}
    assert conflicts(unknown, driver) == []  # which CUDA that one wants is not known: no claim


def test_conflicts_are_printed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "installed", lambda: {**GOOD, "onnxruntime": "1.32.0"})
    _, text = run("--bundle", str(tiny_bundle))
    assert "conflict: onnxruntime and onnxruntime-gpu" in text
    assert "fix: pip uninstall -y onnxruntime onnxruntime-gpu" in text
