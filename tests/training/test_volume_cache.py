"""The cache of a data set: what was read, read once, again only where files changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samihs_runtime.errors import DataError
from samihs_training.data import volume_cache as module
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.reading import read_case
from samihs_training.data.volume_cache import content_sha256, open_volumes

from .test_data_sets import bcihm, head, save


def test_holds_what_the_files_hold(tmp_path: Path) -> None:
    files = find_cases(bcihm(tmp_path / "data"))
    told: list[tuple[int, int]] = []
    cached = open_volumes(tmp_path / "cache", files, progress=lambda *step: told.append(step))
    assert told == [(1, 2), (2, 2)]
    for case, each in zip(files, cached, strict=True):
        volume = read_case(case)
        assert each.name == case.name
        np.testing.assert_array_equal(each.hu, volume.hu)
        np.testing.assert_array_equal(each.mask, volume.labels)
        assert each.spacing_mm == pytest.approx(volume.spacing_mm)
        np.testing.assert_allclose(each.extents_mm, volume.extents_mm)
        assert not each.hu.flags.writeable


def test_the_content_is_known_by_its_voxels_alone(tmp_path: Path) -> None:
    def content(root: Path) -> str:
        return content_sha256(open_volumes(tmp_path / "cache", find_cases(root)))

    here, there = bcihm(tmp_path / "here"), bcihm(tmp_path / "there")
    for folder in ("ct_scans", "masks"):
        (there / folder / "049.nii").rename(there / folder / "900.nii")
    assert content(here) == content(there)
    _, mask = head(0)
    save(np.roll(mask, 1, axis=0), there / "masks" / "900.nii")
    assert content(here) != content(there)


def test_a_second_start_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_cases(bcihm(tmp_path / "data"))
    first = open_volumes(tmp_path / "cache", files)

    def never(case: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_checked", never)
    second = open_volumes(tmp_path / "cache", files)
    np.testing.assert_array_equal(first[1].hu, second[1].hu)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    files = find_cases(bcihm(tmp_path / "data"))
    open_volumes(tmp_path / "cache", files)
    _, mask = head(0)
    mask[10, 10, 2] = 1
    save(mask, tmp_path / "data" / "masks" / "049.nii")
    assert open_volumes(tmp_path / "cache", files)[0].mask.sum() == mask.sum()


def test_a_faulty_case_leaves_no_cache(tmp_path: Path) -> None:
    files = find_cases(bcihm(tmp_path / "data"))
    _, mask = head(0)
    save(mask * 2, tmp_path / "data" / "masks" / "050.nii")
    with pytest.raises(DataError, match=r"050\.nii: labels 2"):
        open_volumes(tmp_path / "cache", files)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["hu.i16", "cases.json"])
def test_a_damaged_cache_is_named(tmp_path: Path, name: str) -> None:
    files = find_cases(bcihm(tmp_path / "data"))
    open_volumes(tmp_path / "cache", files)
    path = next((tmp_path / "cache").iterdir()) / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"volumes-.*delete"):
        open_volumes(tmp_path / "cache", files)
