"""Fixtures of the runtime's tests: the tiny bundle, backends on planted GPUs, and which tests a
machine without GPU runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.backends.onnx_cpu import CpuBackend, open_cpu
from samihs_runtime.backends.onnx_cuda import CudaBackend, open_cuda
from samihs_runtime.backends.tensorrt import TensorRTBackend, open_tensorrt
from samihs_runtime.bundle import Bundle
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings

from .backends.gpu_cases import Planted
from .dicom_factory import write_series
from .planted_gpu import PlantedCuda
from .planted_onnx_runtime import PlantedOrt, plant_onnx_runtime
from .planted_tensorrt import PlantedTensorRT, plant_engines, plant_tensorrt
from .tiny_model import SIZE, write_tiny_bundle


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` run only where ``-m`` names the mark; then they fail without a GPU."""
    if "gpu" in str(config.getoption("markexpr")):
        return
    chosen = [each for each in items if each.get_closest_marker("gpu") is None]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[each for each in items if each not in chosen])
        items[:] = chosen


@pytest.fixture(scope="session")
def _tiny_bundle_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("tiny")
    return write_tiny_bundle(scratch, scratch / "bundle").root


@pytest.fixture
def tiny_bundle(_tiny_bundle_original: Path, tmp_path: Path) -> Path:
    """A bundle with hand-written ONNX graphs (``tiny_model.py``), S = 64; yours to change."""
    return Path(shutil.copytree(_tiny_bundle_original, tmp_path / "tiny-bundle"))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of two studies, p1 and p2, for the clicks of ``clicks_runs.py``."""
    for name in ("p1", "p2"):
        write_series(tmp_path / name)
    return tmp_path


@pytest.fixture
def bright_slice() -> NDArray[np.float32]:
    """[64, 64] HU: brain at 30 with one disc of blood at 70, centre (40, 24), radius 8."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc = (columns - 40) ** 2 + (rows - 24) ** 2 <= 64
    return np.where(disc, 70, 30).astype(np.float32)


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def with_engines(bundle: Bundle) -> Bundle:
    """The same with planted engines for 4 slices or prompts, and 6 points."""
    plant_engines(bundle)
    return bundle


@pytest.fixture
def cuda() -> PlantedCuda:
    return PlantedCuda()


@pytest.fixture
def cpu(bundle: Bundle) -> Iterator[CpuBackend]:
    """Opened before an onnxruntime is planted."""
    with open_cpu(bundle, Timings()) as opened:
        opened.warm_up()
        yield opened


@pytest.fixture
def ort(cpu: CpuBackend, cuda: PlantedCuda, monkeypatch: pytest.MonkeyPatch) -> PlantedOrt:
    return plant_onnx_runtime(monkeypatch, cuda)


@pytest.fixture
def trt(cuda: PlantedCuda, monkeypatch: pytest.MonkeyPatch) -> PlantedTensorRT:
    return plant_tensorrt(monkeypatch, cuda)


@pytest.fixture
def ort_backend(bundle: Bundle, ort: PlantedOrt) -> Iterator[CudaBackend]:
    with open_cuda(bundle, Timings()) as opened:
        yield opened


@pytest.fixture
def trt_backend(with_engines: Bundle, trt: PlantedTensorRT) -> Iterator[TensorRTBackend]:
    with open_tensorrt(with_engines, Timings()) as opened:
        yield opened


@pytest.fixture(params=["cuda", "tensorrt"])
def planted(
    request: pytest.FixtureRequest,
    bundle: Bundle,
    cpu: CpuBackend,
    cuda: PlantedCuda,
    monkeypatch: pytest.MonkeyPatch,
) -> Planted:
    """Each GPU backend in turn; engines for 16 slices or prompts, and 32 points."""
    if request.param == "cuda":
        ort = plant_onnx_runtime(monkeypatch, cuda)
        return Planted(
            lambda: open_cuda(bundle, Timings()),
            cuda,
            lambda: len(ort.captures),
            lambda: sum(kind == "replay" for kind, _, _ in ort.runs),
        )
    plant_tensorrt(monkeypatch, cuda)
    plant_engines(bundle, batch=16, points=32)
    return Planted(
        lambda: open_tensorrt(bundle, Timings()),
        cuda,
        lambda: len(cuda.graphs),
        lambda: cuda.launches,
    )


@pytest.fixture
def segmenter(tiny_bundle: Path) -> Iterator[Segmenter]:
    """On the fake backend, which grows regions from the clicks."""
    bundle = Bundle.open(tiny_bundle)
    with Segmenter(bundle, FakeBackend.for_manifest(bundle.manifest)) as opened:
        yield opened
