"""The cache: made once, gone on with after an interruption, refused when it is another's."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from samihs_runtime.errors import DataError, UsageError
from samihs_training.data import cache as module
from samihs_training.data.cache import FIRST_SEEDS, CacheSpec, open_cache
from samihs_training.data.phantom import PhantomOptions, PhantomSlice, generate_slice

SPEC = CacheSpec("validation", 3, matrix=64)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the slices that were generated, in this process."""
    seeds: list[int] = []

    def recorded(seed: int, options: PhantomOptions) -> PhantomSlice:
        seeds.append(seed)
        return generate_slice(seed, options)

    monkeypatch.setattr(module, "generate_slice", recorded)
    return seeds


def test_slices_are_the_generators(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    cache = open_cache(tmp_path, SPEC, progress=lambda done, total: told.append((done, total)))
    assert len(cache) == 3
    assert told == [(3, 3)]
    wanted = generate_slice(FIRST_SEEDS["validation"] + 2, SPEC.options)
    np.testing.assert_array_equal(cache[2].hu, wanted.hu)
    np.testing.assert_array_equal(cache[2].bleeds, wanted.bleeds)
    assert cache[2].pixel_spacing == pytest.approx(wanted.pixel_spacing)


def test_several_processes_make_the_same_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generated: list[int]
) -> None:
    here = open_cache(tmp_path / "here", SPEC)
    generated.clear()
    monkeypatch.setattr(module, "_CHUNK", 2)
    there = open_cache(tmp_path / "there", SPEC, workers=2)
    assert generated == [SPEC.first_seed, SPEC.first_seed + 2]  # only to check the cache
    for name in ("hu", "bleeds", "tissues", "spacing"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def test_a_second_start_makes_nothing_again(tmp_path: Path, generated: list[int]) -> None:
    open_cache(tmp_path, SPEC)
    generated.clear()
    open_cache(tmp_path, SPEC)
    assert generated == [SPEC.first_seed, SPEC.first_seed + 2]  # is the generator the same?


def test_an_interrupted_one_goes_on(tmp_path: Path, generated: list[int]) -> None:
    open_cache(tmp_path, SPEC)
    home = next(tmp_path.iterdir())
    (home / "cache.json").unlink()
    done = np.load(home / "done.npy", mmap_mode="r+")
    done[1] = 0
    done.flush()
    generated.clear()
    open_cache(tmp_path, SPEC)
    made, *seen = generated
    assert made == SPEC.first_seed + 1
    assert seen == [SPEC.first_seed, SPEC.first_seed + 2]


@pytest.mark.parametrize(("name", "index"), [("hu", 0), ("bleeds", 2), ("tissues", 0)])
def test_another_generators_cache_is_refused(tmp_path: Path, name: str, index: int) -> None:
    """Labels follow other rules in another version, too, and not on every slice."""
    open_cache(tmp_path, SPEC)
    stored = np.load(next(tmp_path.iterdir()) / f"{name}.npy", mmap_mode="r+")
    stored[index, 0, 0] += 1
    stored.flush()
    with pytest.raises(DataError, match=f"{name} differ.: another version made it"):
        open_cache(tmp_path, SPEC)


def test_splits_share_no_seed() -> None:
    ranges = [
        range(first, first + module.SEEDS_PER_SPLIT) for first in sorted(FIRST_SEEDS.values())
    ]
    assert all(a.stop <= b.start for a, b in pairwise(ranges))
    with pytest.raises(UsageError, match="no split 'holdout'"):
        CacheSpec("holdout", 3)


def test_a_further_round_has_slices_and_a_folder_of_its_own(tmp_path: Path) -> None:
    open_cache(tmp_path, SPEC)
    further = replace(SPEC, count=2, first=3)
    cache = open_cache(tmp_path, further)
    wanted = generate_slice(FIRST_SEEDS["validation"] + 4, SPEC.options)
    np.testing.assert_array_equal(cache[1].hu, wanted.hu)
    assert further.name != SPEC.name
    for first in (-1, module.SEEDS_PER_SPLIT - 1):
        with pytest.raises(UsageError, match=f"2 from {first}"):
            replace(further, first=first)
