"""Phantom slices for training, generated once into memory-mapped arrays.

A cache is a folder of ``hu.npy`` (int16), ``bleeds.npy`` and ``tissues.npy`` (uint8), each
[count, matrix, matrix], and ``spacing.npy`` (float32 [count], mm). Several processes fill it; an
interrupted cache is completed from where it stopped, and a complete one is only opened. Slice i is
the phantom of seed ``first_seed + i``, so splits with disjoint seeds share no patient.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError, UsageError
from samihs_training.data.phantom import PhantomOptions, PhantomSlice, generate_slice
from samihs_training.output import write_output

Progress = Callable[[int, int], None]
"""``progress(done, total)``, called as the work goes on."""

SCHEMA = 1
FIRST_SEEDS = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
"""Where each split's seeds begin; a split may hold SEEDS_PER_SPLIT of them."""
SEEDS_PER_SPLIT = 1_000_000
_CHUNK = 16  # slices a process makes before it reports


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds: a change of any field makes another cache."""

    split: str
    count: int
    """Number of slices."""
    matrix: int = 512
    """Rows and columns, pixels."""
    crossing_probability: float = 0.9
    """Share of the slices (of patients with a bleed) placed to cross one."""
    first: int = 0
    """Position of slice 0 in the split; slices before it belong to other caches."""

    def __post_init__(self) -> None:
        if self.split not in FIRST_SEEDS:
            raise UsageError(f"no split {self.split!r}: there are {', '.join(FIRST_SEEDS)}")
        if self.count < 1 or self.first < 0 or self.first + self.count > SEEDS_PER_SPLIT:
            raise UsageError(
                f"slices: {self.count} from {self.first}; expected at least 1, from 0 on, within "
                f"{SEEDS_PER_SPLIT}"
            )

    @property
    def first_seed(self) -> int:
        """Seed of slice 0."""
        return FIRST_SEEDS[self.split] + self.first

    @property
    def name(self) -> str:
        """The name of its folder."""
        name = f"{self.split}-{self.count}x{self.matrix}-{self.crossing_probability:g}"
        return f"{name}-from-{self.first}" if self.first else name

    @property
    def options(self) -> PhantomOptions:
        """Options of the generator."""
        return PhantomOptions(matrix=self.matrix, crossing_probability=self.crossing_probability)


@dataclass(frozen=True, eq=False)
class SliceCache:
    """An opened cache; the arrays are read-only memory maps."""

    hu: NDArray[np.int16]
    bleeds: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    spacing: NDArray[np.float32]
    home: Path
    """The folder, which another process opens for itself rather than be sent gigabytes."""

    @classmethod
    def load(cls, home: Path) -> SliceCache:
        """Map the complete cache in the folder `home`."""
        arrays = {name: np.load(home / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(**arrays, home=home)

    def __len__(self) -> int:
        return len(self.spacing)

    def __getitem__(self, index: int) -> PhantomSlice:
        """Slice ``index`` as the generator made it."""
        return PhantomSlice(
            self.hu[index], self.bleeds[index], self.tissues[index], float(self.spacing[index])
        )


def open_cache(
    folder: Path, spec: CacheSpec, *, workers: int = 2, progress: Progress | None = None
) -> SliceCache:
    """The cache of ``spec`` under ``folder``; made first, with ``workers`` processes, if needed.

    To check a cache, its first and last slice are generated anew and must equal the stored ones,
    labels included: a cache of another version of the generator raises a :class:`DataError`.
    """
    home = folder / spec.name
    if not (home / "cache.json").is_file():
        _fill(home, spec, workers, progress)
    _check(home, spec)
    return SliceCache.load(home)


_ARRAYS: dict[str, Any] = {
    "hu": np.int16,
    "bleeds": np.uint8,
    "tissues": np.uint8,
    "spacing": np.float32,
}


def _fill(home: Path, spec: CacheSpec, workers: int, progress: Progress | None) -> None:
    """Generate what is missing, then mark the cache as complete."""
    _lay_out(home, spec)
    done = np.load(home / "done.npy", mmap_mode="r")
    missing = np.flatnonzero(done == 0)
    chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
    finished = spec.count - len(missing)
    for made in _made(home, spec, chunks, workers):
        finished += made
        if progress is not None:
            progress(finished, spec.count)
    content = {"schema": SCHEMA, **asdict(spec)}
    write_output(home / "cache.json", json.dumps(content, indent=2) + "\n")


def _made(
    home: Path, spec: CacheSpec, chunks: list[NDArray[np.intp]], workers: int
) -> Iterator[int]:
    """The size of each chunk once it is written."""
    if len(chunks) < 2:  # made here before another process would have started
        yield from (_generate_chunk(home, spec, chunk) for chunk in chunks)
        return
    # "spawn": a forked child of a process that has run torch may hang in its thread pool.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_generate_chunk, [home] * len(chunks), [spec] * len(chunks), chunks)


def _lay_out(home: Path, spec: CacheSpec) -> None:
    """Create empty arrays of the right size, unless an interrupted run has left them."""
    if (home / "done.npy").is_file():
        return
    home.mkdir(parents=True, exist_ok=True)
    shape = (spec.count, spec.matrix, spec.matrix)
    for name, dtype in {
        **_ARRAYS,
        "done": np.uint8,
    }.items():  # "done" last: it vouches for the rest
        size = (spec.count,) if name in ("spacing", "done") else shape
        np.lib.format.open_memmap(home / f"{name}.npy", mode="w+", dtype=dtype, shape=size).flush()


def _generate_chunk(home: Path, spec: CacheSpec, indices: NDArray[np.intp]) -> int:
    """Write the slices of ``indices``; returns how many. May run in a process of its own."""
    arrays = {name: np.load(home / f"{name}.npy", mmap_mode="r+") for name in (*_ARRAYS, "done")}
    for index, made in _generate(spec, indices):
        arrays["hu"][index] = made.hu
        arrays["bleeds"][index] = made.bleeds
        arrays["tissues"][index] = made.tissues
        arrays["spacing"][index] = made.pixel_spacing
        arrays["done"][index] = 1
    return len(indices)


def _generate(spec: CacheSpec, indices: NDArray[np.intp]) -> Iterator[tuple[int, PhantomSlice]]:
    for index in indices:
        yield int(index), generate_slice(spec.first_seed + int(index), spec.options)


def _check(home: Path, spec: CacheSpec) -> None:
    stored = SliceCache.load(home)
    for index, made in _generate(spec, np.unique([0, spec.count - 1])):
        there = stored[index]
        for name in ("hu", "bleeds", "tissues"):
            if not np.array_equal(getattr(there, name), getattr(made, name)):
                raise DataError(
                    f"{home}: slice {index} is not what the phantom generator makes now ({name} "
                    "differ): another version made it; delete the folder to have it made again"
                )
