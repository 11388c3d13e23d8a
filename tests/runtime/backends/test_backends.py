"""One suite for every backend present and the fake; and ONNX Runtime against numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samihs_runtime.backends.base import Backend, Embedding
from samihs_runtime.backends.choose import choose
from samihs_runtime.backends.cpu_threads import THREADS, cpu_threads
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.backends.onnx_cpu import open_cpu
from samihs_runtime.bundle import Bundle, GraphEntry, write_bundle
from samihs_runtime.errors import BackendError, BundleError, UsageError
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_onnx_runtime import plant_onnx_runtime
from tests.runtime.planted_tensorrt import plant_engines, plant_tensorrt
from tests.runtime.tiny_model import (
    CHANNELS,
    GRID,
    LOW,
    SIZE,
    manifest,
    reference_embedding,
    reference_logits,
)

from .gpu_needs import skip_where_no_tensorrt_builds

WINDOW = np.asarray([(0, 100)], np.float32)


@pytest.fixture(
    params=[
        "fake",
        "cpu",
        "planted cuda",
        "planted tensorrt",
        pytest.param("cuda", marks=pytest.mark.gpu),
        pytest.param("tensorrt", marks=pytest.mark.gpu),
    ]
)
def backend(
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Backend]:
    bundle = Bundle.open(tiny_bundle)
    if request.param == "tensorrt":
        bundle = with_engines(tiny_bundle, tmp_path / "with-engines")
    elif request.param == "planted tensorrt":
        plant_engines(bundle)
        plant_tensorrt(monkeypatch, PlantedCuda())
    elif request.param == "planted cuda":
        plant_onnx_runtime(monkeypatch, PlantedCuda())
    with choose(bundle, request.param.removeprefix("planted ")).backend as opened:
        yield opened


def with_engines(source: Path, destination: Path) -> Bundle:
    """The tiny bundle with engines for the GPU at hand."""
    from samihs_export.engines.tensorrt import build_engines

    skip_where_no_tensorrt_builds()
    files = ("onnx/encoder.onnx", "onnx/decoder.onnx")
    graphs = tuple(GraphEntry(family, "fp32", *files) for family in ("onnx", "trt"))
    bundle = write_bundle(source, manifest(graphs=graphs), destination)
    build_engines(bundle, bundle.engines, (None,))
    return bundle


def batch(bright_slice: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.stack([np.roll(bright_slice, -5 * i, axis=1) for i in range(count)])[:, None]


def clicks(*spots: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """One click each, and the "not a point" that SAM adds."""
    points = np.asarray([(spot, (0, 0)) for spot in spots], np.float32)
    return points, np.tile(np.asarray([1, -1], np.int32), (len(spots), 1))


def test_shapes_types_and_a_click_on_the_bright_spot(
    backend: Backend, bright_slice: NDArray[np.float32]
) -> None:
    hu = batch(bright_slice, 3)
    embeddings = backend.encode(hu, np.repeat(WINDOW, 3, axis=0))
    assert len(embeddings) == 3
    assert all(isinstance(each, Embedding) and each.nbytes > 0 for each in embeddings)
    answer = backend.decode(embeddings, *clicks((40, 24), (35, 24), (30, 24)), None)
    assert answer.logits.shape == (3, LOW, LOW)
    assert answer.logits.dtype == np.float32
    assert answer.masks.shape == (3, SIZE, SIZE)
    assert answer.masks.dtype == bool
    assert answer.scores.shape == (3,)
    for mask, column in zip(answer.masks, (40, 35, 30), strict=True):
        assert mask[24, column]
        assert not mask[55, 10]
    assert (answer.scores > 0.5).all()


def test_a_click_on_nothing_scores_low(backend: Backend, bright_slice: NDArray[np.float32]) -> None:
    embeddings = backend.encode(bright_slice[None, None], WINDOW)
    answer = backend.decode(embeddings, *clicks((10, 55)), None)
    assert not answer.masks.any()
    assert answer.scores[0] < 0.5


def test_a_batch_answers_as_its_parts(backend: Backend, bright_slice: NDArray[np.float32]) -> None:
    hu = batch(bright_slice, 3)
    embeddings = backend.encode(hu, np.repeat(WINDOW, 3, axis=0))
    points, labels = clicks((40, 24), (35, 22), (30, 26))
    together = backend.decode(embeddings, points, labels, None)
    for i in range(3):
        one = backend.encode(hu[i : i + 1], WINDOW)
        alone = backend.decode(one, points[i : i + 1], labels[i : i + 1], None)
        np.testing.assert_allclose(together.logits[i], alone.logits[0], atol=1e-4)
        np.testing.assert_array_equal(together.masks[i], alone.masks[0])


def test_the_same_answer_twice(backend: Backend, bright_slice: NDArray[np.float32]) -> None:
    embeddings = backend.encode(bright_slice[None, None], WINDOW)
    first = backend.decode(embeddings, *clicks((40, 24)), None)
    second = backend.decode(embeddings, *clicks((40, 24)), None)
    np.testing.assert_array_equal(first.logits, second.logits)


def test_an_embedding_goes_to_the_host_and_back(
    backend: Backend, bright_slice: NDArray[np.float32]
) -> None:
    embeddings = backend.encode(bright_slice[None, None], WINDOW)
    restored = [backend.restore(each.numpy()) for each in embeddings]
    one = backend.decode(embeddings, *clicks((40, 24)), None)
    other = backend.decode(restored, *clicks((40, 24)), None)
    np.testing.assert_array_equal(one.logits, other.logits)
    np.testing.assert_array_equal(one.masks, other.masks)


def test_it_names_how_many_slices_go_together(backend: Backend) -> None:
    assert 1 <= backend.encode_batch <= 8


def test_closing_twice_is_harmless_and_using_it_then_is_an_error(
    backend: Backend, bright_slice: NDArray[np.float32]
) -> None:
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.encode(bright_slice[None, None], WINDOW)


def test_onnx_runtime_agrees_with_numpy(
    tiny_bundle: Path, bright_slice: NDArray[np.float32]
) -> None:
    prior = np.random.default_rng(0).normal(size=(1, LOW, LOW)).astype(np.float32)
    with open_cpu(Bundle.open(tiny_bundle), Timings()) as backend:
        embeddings = backend.encode(bright_slice[None, None], WINDOW)
        assert embeddings[0].nbytes == CHANNELS * GRID * GRID * 4
        np.testing.assert_allclose(
            embeddings[0].numpy(), reference_embedding(bright_slice), atol=1e-6
        )
        points, labels = clicks((40, 24))
        for given in (None, prior):
            answer = backend.decode(embeddings, points, labels, given)
            expected = reference_logits(
                bright_slice, points[0], labels[0], None if given is None else given[0]
            )
            np.testing.assert_allclose(answer.logits[0], expected, atol=1e-4)


def test_products_in_8_bits_do_not_overflow(tiny_bundle: Path) -> None:
    """On x86 without VNNI they do, unless the session is told; elsewhere this cannot fail."""
    weight = np.full((64, 8), 127, np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "weight", "zero", "none"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 8])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.zeros((), np.int8), "none"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.linspace(0, 255, 256, dtype=np.float32).reshape(4, 64)  # its own 8-bit values
    options = onnxruntime.SessionOptions()
    with open_cpu(Bundle.open(tiny_bundle), Timings()) as backend:
        backend._configure(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x.astype(int) @ weight)


def test_sessions_load_when_first_needed(
    tiny_bundle: Path, bright_slice: NDArray[np.float32]
) -> None:
    timings = Timings()
    with open_cpu(Bundle.open(tiny_bundle), timings) as backend:
        assert timings["load encoder"].count == 0
        backend.encode(bright_slice[None, None], WINDOW)
        assert (timings["load encoder"].count, timings["load decoder"].count) == (1, 0)


def test_a_graph_that_was_exchanged_since_the_bundle_was_opened_is_not_loaded(
    tiny_bundle: Path, bright_slice: NDArray[np.float32]
) -> None:
    """The decoder is loaded at the first click: it must not be another model's."""
    with open_cpu(Bundle.open(tiny_bundle), Timings()) as backend:
        (embedding,) = backend.encode(bright_slice[None, None], WINDOW)
        path = tiny_bundle / "onnx/decoder.onnx"
        content = path.read_bytes()
        path.write_bytes(content.replace(b"spread", b"spraed"))
        with pytest.raises(BundleError, match=r"decoder.onnx was changed .*: open it again"):
            backend.decode([embedding], *clicks((20, 20)), None)
        path.unlink()
        with pytest.raises(BundleError, match=r"decoder.onnx was changed or removed"):
            backend.decode([embedding], *clicks((20, 20)), None)
        path.write_bytes(content)  # copied again: another file with the same content
        assert backend.decode([embedding], *clicks((20, 20)), None).scores.shape == (1,)


def test_what_the_graph_refuses_is_a_backend_error(tiny_bundle: Path) -> None:
    with (
        open_cpu(Bundle.open(tiny_bundle), Timings()) as backend,
        pytest.raises(BackendError, match="the cpu backend could not encode a slice"),
    ):
        backend.encode(np.zeros((1, 1, 32, 32), np.float32), WINDOW)


def test_embeddings_of_another_backend_are_refused(
    tiny_bundle: Path, bright_slice: NDArray[np.float32]
) -> None:
    foreign = FakeBackend(SIZE, 4 * GRID).encode(bright_slice[None, None], WINDOW)
    with (
        open_cpu(Bundle.open(tiny_bundle), Timings()) as backend,
        pytest.raises(BackendError, match="another backend"),
    ):
        backend.decode(foreign, *clicks((1, 1)), None)


def test_a_graph_of_another_contract_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    """A bundle whose files are intact, with the two graphs exchanged."""
    swapped = (GraphEntry("onnx", "fp32", "onnx/decoder.onnx", "onnx/encoder.onnx"),)
    bundle = write_bundle(tiny_bundle, manifest(graphs=swapped), tmp_path / "swapped")
    with (
        open_cpu(bundle, Timings()) as backend,
        pytest.raises(BundleError, match=r"encoder .*inputs are .*expected hu float32, window"),
    ):
        backend.warm_up()


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    (tiny_bundle / "onnx/encoder.onnx").write_bytes(b"no graph")
    bundle = write_bundle(tiny_bundle, manifest(), tmp_path / "broken")
    with (
        open_cpu(bundle, Timings()) as backend,
        pytest.raises(BundleError, match=r"onnxruntime .*cannot load .*encoder.onnx"),
    ):
        backend.warm_up()


QUOTAS = {
    "none": ({}, 3),
    "version 2, no quota": ({"cpu.max": "max 100000\n"}, 3),
    "version 2": ({"cpu.max": "200000 100000\n"}, 2),
    "version 2, part of a core": ({"cpu.max": "50000 100000\n"}, 1),
    "version 2, parts of cores": ({"cpu.max": "110000 100000\n"}, 2),
    "version 2, beyond the affinity": ({"cpu.max": "1600000 100000\n"}, 3),
    "version 1, no quota": (
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1": ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    "version 1, one file": ({"cpu/cpu.cfs_quota_us": "100000\n"}, 3),
    "unheard of": ({"cpu.max": "plenty\n"}, 3),
}


@pytest.mark.parametrize(("files", "expected"), QUOTAS.values(), ids=QUOTAS.keys())
def test_threads_follow_affinity_and_a_containers_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert cpu_threads(tmp_path) == expected


def test_threads_as_the_user_says(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setenv(THREADS, " 7 ")
    assert cpu_threads() == 7
    for wrong in ("0", "-2", "two", "1.5", "10000"):
        monkeypatch.setenv(THREADS, wrong)
        with pytest.raises(UsageError, match=rf"SAMIHS_THREADS is '{wrong}': expected a whole"):
            open_cpu(bundle, Timings())


def test_the_fake_takes_boxes_and_background(bright_slice: NDArray[np.float32]) -> None:
    backend = FakeBackend(SIZE, 4 * GRID)
    embeddings = backend.encode(bright_slice[None, None], WINDOW)
    whole = backend.decode(embeddings, *clicks((40, 24)), None).masks[0]
    points = np.asarray([[(40, 24), (44, 24)]], np.float32)
    less = backend.decode(embeddings, points, np.asarray([[1, 0]], np.int32), None).masks[0]
    assert not less[24, 44]
    assert less[24, 36]
    box = np.asarray([[(32, 16), (39, 32)]], np.float32)
    boxed = backend.decode(embeddings, box, np.asarray([[2, 3]], np.int32), None).masks[0]
    np.testing.assert_array_equal(boxed[:, 40:], False)
    assert boxed.sum() > whole.sum() * 0.3
