"""Kernels that TensorRT-RTX compiles: kept for the next process, never read where damaged."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from samihs_runtime.backends.kernel_cache import KernelCache
from samihs_runtime.backends.tensorrt import open_tensorrt
from samihs_runtime.bundle import Bundle
from samihs_runtime.timing import Timings
from tests.runtime.planted_tensorrt import PlantedRuntimeCache, PlantedTensorRT

from .gpu_cases import WINDOW, prompts, slices


def click_once(with_engines: Bundle) -> None:
    with open_tensorrt(with_engines, Timings()) as backend:
        backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)


def test_compiled_kernels_serve_the_next_process(
    with_engines: Bundle, trt: PlantedTensorRT
) -> None:
    click_once(with_engines)
    assert trt.compiled == 2  # encoder and decoder
    click_once(with_engines)
    assert trt.compiled == 2


def test_a_server_that_is_killed_has_kept_what_its_warm_up_compiled(
    with_engines: Bundle, trt: PlantedTensorRT
) -> None:
    kept = [with_engines.engines / f"{part}.kernels" for part in ("encoder", "decoder")]
    with open_tensorrt(with_engines, Timings()) as backend:
        assert not any(each.exists() for each in kept)
        backend.warm_up()
        before = [each.read_bytes() for each in kept]  # though it was not closed
        backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)
        assert [each.read_bytes() for each in kept] == before
    compiled = trt.compiled
    click_once(with_engines)
    assert trt.compiled == compiled


def test_a_click_writes_no_kernels(
    with_engines: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tensorrt(with_engines, Timings()) as backend, monkeypatch.context() as patch:
        patch.setattr(KernelCache, "save", lambda cache: pytest.fail("a click had to wait"))
        backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)


def test_kernels_that_tensorrt_does_not_give_cost_nothing_else(
    with_engines: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cache: PlantedRuntimeCache) -> memoryview:
        raise RuntimeError("no memory to serialize")

    monkeypatch.setattr(PlantedRuntimeCache, "serialize", broken)
    with open_tensorrt(with_engines, Timings()) as backend:
        backend.warm_up()
    assert not list(with_engines.engines.glob("*.kernels"))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\0" + b[1:], lambda b: b""])
def test_damaged_kernels_are_never_read(
    with_engines: Bundle, trt: PlantedTensorRT, damage: Callable[[bytes], bytes]
) -> None:
    click_once(with_engines)
    for path in with_engines.engines.glob("*.kernels"):
        path.write_bytes(damage(path.read_bytes()))
    click_once(with_engines)
    assert trt.compiled == 4
    click_once(with_engines)  # mended
    assert trt.compiled == 4


def test_kernels_of_another_engine_are_not_taken(
    with_engines: Bundle, trt: PlantedTensorRT
) -> None:
    click_once(with_engines)
    encoder, decoder = (with_engines.engines / f"{part}.kernels" for part in ("encoder", "decoder"))
    decoder.write_bytes(encoder.read_bytes())
    click_once(with_engines)
    assert trt.compiled == 3


def test_tensorrt_itself_has_no_kernels_to_keep(with_engines: Bundle, trt: PlantedTensorRT) -> None:
    del trt.IRuntimeCache
    click_once(with_engines)
    assert (trt.compiled, list(with_engines.engines.glob("*.kernels"))) == (0, [])


def test_kernels_that_cannot_be_written_cost_nothing_else(
    with_engines: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(source: object, target: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    before = sorted(with_engines.engines.iterdir())
    click_once(with_engines)
    assert sorted(with_engines.engines.iterdir()) == before
