"""Embeddings on disk: whole, bounded, and never another's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime import environment
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.environment import software
from samihs_runtime.errors import OutputError
from samihs_runtime.segmenter import Segmenter


def embedding(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, 8, 8)).astype(np.float32)


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store", "cpu", "fp32")
    store.put("a", embedding(1))
    back = EmbeddingStore(tmp_path / "store", "cpu", "fp32").get("a")
    assert back is not None
    np.testing.assert_array_equal(back, embedding(1))
    assert store.get("b") is None
    assert EmbeddingStore(tmp_path / "store", "tensorrt", "fp32").get("a") is None
    assert EmbeddingStore(tmp_path / "store", "cpu", "int8").get("a") is None
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_another_precisions_embeddings_are_not_taken(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after engines of another precision were built for the same bundle, whose id stays."""
    hu = np.zeros((64, 64), np.float32)
    for precision, expected in (("fp16", 1), ("int8", 1), ("fp16", 0)):
        monkeypatch.setattr(FakeBackend, "precision", precision)
        with Segmenter.from_bundle(tiny_bundle, "fake", store=tmp_path) as segmenter:
            segmenter.encode(hu)
            assert isinstance(segmenter.backend, FakeBackend)
            assert segmenter.backend.encodes == expected


@pytest.mark.parametrize("package", ["samihs", "onnxruntime", "scipy"])
def test_another_versions_embeddings_are_not_taken(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddingStore(tmp_path, "cpu", "fp32")
    store.put("a", embedding(1))
    real = environment.metadata.version
    monkeypatch.setattr(
        environment.metadata, "version", lambda name: "99.0" if name == package else real(name)
    )
    updated = EmbeddingStore(tmp_path, "cpu", "fp32")
    assert updated.get("a") is None
    assert updated.nbytes == store.nbytes > 0  # it ages out with the rest


def test_files_are_for_their_owner_in_a_folder_that_is_for_all(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    EmbeddingStore(tmp_path / "shared", "cpu", "fp32").put("a", embedding(1))
    (path,) = (tmp_path / "shared").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-1] + b"\x7f", lambda b: b""])
def test_a_damaged_file_is_dropped_not_served(tmp_path: Path, change: object) -> None:
    store = EmbeddingStore(tmp_path, "cpu", "fp32")
    store.put("a", embedding(1))
    path = next(tmp_path.glob("a.*"))
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    assert store.get("a") is None
    assert not path.exists()
    store.put("a", embedding(1))
    assert store.get("a") is not None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    size = 1200  # 4 x 8 x 8 float32 are 1024 bytes, 128 of .npy header and 32 of digest
    store = EmbeddingStore(tmp_path, "cpu", "fp32", max_mb=3 * size / 2**20)
    for age, key in enumerate("abc"):
        store.put(key, embedding(age))
        os.utime(next(tmp_path.glob(f"{key}.*")), (1000 + age, 1000 + age))
    assert store.get("a") is not None  # used now
    store.put("d", embedding(3))
    assert [key for key in "abcd" if store.get(key) is not None] == ["a", "c", "d"]
    assert store.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert store.nbytes <= store.max_bytes


def test_what_other_processes_write_is_counted(tmp_path: Path) -> None:
    """Two stores in one folder, neither of which alone would reach the bound."""
    stores = [EmbeddingStore(tmp_path, "cpu", "fp32", max_mb=32 * 1200 / 2**20) for _ in range(2)]
    for number in range(50):
        stores[number % 2].put(str(number), embedding(number))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= stores[0].max_bytes * (1 + 2 / 16)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="embeddings cannot be kept in"):
        EmbeddingStore(tmp_path / "file" / "store", "cpu", "fp32")
    with pytest.raises(OutputError, match="name a folder"):
        Segmenter.from_bundle(tiny_bundle, "fake", store=tmp_path / "file")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path, number: float) -> None:
    store = EmbeddingStore(tmp_path, "cpu", "fp32")
    spoiled = embedding(1)
    spoiled[3, 7, 7] = number
    store.put("a", spoiled)
    assert list(tmp_path.iterdir()) == []
    assert store.nbytes == 0


def test_what_is_dropped_is_gone_and_not_counted(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "cpu", "fp32")
    for seed, key in enumerate("ab"):
        store.put(key, embedding(seed))
    store.drop("a")
    store.drop("a")
    assert store.get("a") is None
    assert store.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 0


def test_what_was_cut_off_while_it_was_written_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    store = EmbeddingStore(tmp_path, "cpu", "fp32")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", killed)  # a process that is killed removes nothing
        with pytest.raises(KeyboardInterrupt):
            store.put("a", embedding(1))
    (partial,) = tmp_path.iterdir()
    EmbeddingStore(tmp_path, "cpu", "fp32")
    assert partial.exists()  # another process may be at it
    hours_ago = partial.stat().st_mtime - 2 * 3600
    os.utime(partial, (hours_ago, hours_ago))
    (tmp_path / ".notes").write_text("mine")
    os.utime(tmp_path / ".notes", (hours_ago, hours_ago))
    EmbeddingStore(tmp_path, "cpu", "fp32").put("b", embedding(2))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".notes", f"b.cpu.fp32.{software()}.embedding"}


def test_a_full_disk_costs_the_copy_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddingStore(tmp_path, "cpu", "fp32")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    store.put("a", embedding(1))
    assert store.get("a") is None
    assert list(tmp_path.iterdir()) == []
