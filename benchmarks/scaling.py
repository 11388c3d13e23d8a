"""How time grows: with slices, batch, prompts, image size and model.

    python benchmarks/scaling.py [--rounds 3] [--largest 1024]

The report fits an exponent to each. What theory says: reading, batches and prompts are linear; a
ViT's windowed blocks grow as the tokens do, its global blocks' attention as their square.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from record import Record, Series
from stopwatch import interleaved

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam, preset

SLICES = (8, 16, 32)
BATCHES = (1, 2, 4, 8)
PROMPTS = (1, 2, 4, 8, 16)
SIZES = (256, 512, 1024)
WINDOW = (-20.0, 100.0)
Works = dict[str, Callable[[], object]]


def measure(rounds: int = 3, largest: int = 1024, backend: str = "auto") -> Record:
    """Seconds at each size of each axis; ``subject`` is the axis, ``quantity`` its value."""
    series = _timed("read a folder, slices", _reading(rounds))
    with Segmenter.from_bundle(None, backend) as segmenter:
        series += _timed("encode, batch", interleaved(_encodes(segmenter), rounds))
        series += _timed("decode, prompts", interleaved(_decodes(segmenter), 3 * rounds))
    sizes = [size for size in SIZES if size <= largest]
    series += _timed("vit_b in torch, image size", interleaved(_sizes(sizes), rounds))
    names = ("vit_mini", "vit_b", "vit_l")
    series += _timed("torch at 256, preset", interleaved(_presets(names), rounds))
    return Record("scaling", tuple(series), {"rounds": rounds, "backend": backend})


def _timed(axis: str, taken: dict[str, tuple[float, ...]]) -> list[Series]:
    return [Series(axis, value, "s", samples) for value, samples in taken.items()]


def _reading(rounds: int) -> dict[str, tuple[float, ...]]:
    with tempfile.TemporaryDirectory() as scratch:
        works: Works = {}
        for count in SLICES:
            place = Path(scratch) / str(count)
            write_dicom(generate_study(5, PhantomOptions(slices=count)), place)
            works[str(count)] = partial(read_study, place)
        return interleaved(works, rounds)


def _encodes(segmenter: Segmenter) -> Works:
    size = segmenter.bundle.manifest.slice_size
    hu = np.random.default_rng(0).uniform(-20, 100, (max(BATCHES), 1, size, size))
    window = np.tile(np.asarray(WINDOW, np.float32), (max(BATCHES), 1))
    return {
        str(batch): partial(segmenter.backend.encode, hu[:batch].astype(np.float32), window[:batch])
        for batch in BATCHES
    }


def _decodes(segmenter: Segmenter) -> Works:
    size = segmenter.bundle.manifest.slice_size
    encoded = segmenter.encode(np.zeros((size, size), np.float32))
    prompts = [Prompt(((100.0 + 9 * i, 200.0),), (FOREGROUND,)) for i in range(max(PROMPTS))]
    return {
        str(count): partial(segmenter.predict_batch, [encoded] * count, prompts[:count])
        for count in PROMPTS
    }


def _sizes(sizes: list[int]) -> Works:
    return {str(size): _encode(replace(preset("vit_b"), image_size=size)) for size in sizes}


def _presets(names: tuple[str, ...]) -> Works:
    """At one size, which is not the mini's own: what is compared is the model."""
    return {name: _encode(replace(preset(name), image_size=256)) for name in names}


def _encode(config: SamConfig) -> Callable[[], object]:
    model = SamihsModel(build_sam(config), config).eval()
    hu, window = torch.zeros(1, 1, 512, 512), torch.tensor([WINDOW])

    def encode() -> object:
        with torch.inference_mode():
            return model.encode(hu, window)

    return encode


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1024, help="image size of ViT-B")
    options = parser.parse_args()
    print(f"written  {measure(options.rounds, options.largest).write()}")


if __name__ == "__main__":
    main()
