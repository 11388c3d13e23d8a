"""The baseline without clicks: a MONAI U-Net that segments all blood of a slice.

    python benchmarks/unet.py --out build/unet.safetensors [--minutes 90] [--cache RUN/cache]

It is trained on the same phantom slices as the shipped recipe, drawn and augmented by the same
code, likewise in a separate process, for as long as one round of that recipe takes. The shipped
model had several rounds (docs/model.md): ``--minutes`` sets any time for the U-Net. Its answer to a
click is the connected component of its mask under the click, or else the nearest one. It cannot
separate two lesions that touch, since it is not told where to stop.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset

from samihs_runtime.errors import CheckpointError, SamihsError, UsageError
from samihs_training.checkpoints.tensorfile import check_state, read_safetensors, write_safetensors
from samihs_training.compute.allocation import keep_freed_memory
from samihs_training.compute.hardware import image_format, mixed_precision
from samihs_training.config import read_recipe
from samihs_training.data.cache import CacheSpec, open_cache
from samihs_training.data.clicks import EIGHT, Mask, Point
from samihs_training.data.sources import Drawing, PhantomSlices, Source
from samihs_training.losses.common import DiceCrossEntropyLoss
from samihs_training.stages.batches import stream

RECIPE_MINUTES = 90.0
"""About one round of the shipped recipe on two cores: base, adapters and score."""
CACHE = Path("build/phantoms")
CPU = torch.device("cpu")
STRIDE = 16
"""A slice's side must be a multiple of this: it is halved four times and doubled four times."""


@dataclass(frozen=True)
class UNetPlan:
    """How a U-Net is trained."""

    minutes: float = RECIPE_MINUTES
    """Wall-clock time from the first batch on; making the cache of phantoms does not count, and
    batches are prepared by another process in the meantime."""
    slices: int = 6000
    """Phantom slices of the training split; the shipped recipe's."""
    batch: int = 4
    learning_rate: float = 1e-3
    """Initial value for AdamW; it falls to zero along a cosine of the elapsed time."""
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of each level, the finest first: 1.6 M parameters; the shipped model has 4.2 M."""
    seed: int = 1
    window: tuple[float, float] = (-20.0, 100.0)
    """HU, scaled to [0, 1]."""
    amp: bool = True
    """Convolutions in bfloat16, as in the shipped recipe, if the CPU multiplies it."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or min(self.slices, self.batch) < 1:
            raise UsageError(
                f"minutes = {self.minutes}, slices = {self.slices}, batch = {self.batch}: "
                "expected all above 0"
            )


@dataclass(frozen=True, eq=False)
class UNet:
    """A trained U-Net."""

    network: nn.Module
    """[B, 1, S, S] in [0, 1] -> logits [B, 1, S, S]."""
    plan: UNetPlan
    steps: int
    """Optimiser steps made in its minutes."""

    @torch.inference_mode()
    def mask(self, hu: NDArray[np.int16]) -> Mask:
        """All blood of a slice: HU [rows, columns] -> boolean [rows, columns].

        Raises:
            UsageError: a side is not a multiple of 16.
        """
        if any(side % STRIDE for side in hu.shape):
            raise UsageError(f"a slice of {hu.shape} pixels: expected multiples of {STRIDE}")
        image = windowed(torch.from_numpy(hu.astype(np.float32))[None, None], self.plan.window)
        return np.asarray(self.network(image)[0, 0].numpy() > 0)

    def save(self, path: Path) -> None:
        """Write the weights and how they were trained."""
        about = {"kind": "unet", "plan": asdict(self.plan), "steps": self.steps}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, dict(self.network.state_dict()), about)


def load(path: Path) -> UNet:
    """The U-Net in a file of :meth:`UNet.save`. Raises :class:`CheckpointError` for other files."""
    state, about = read_safetensors(path)
    if about.get("kind") != "unet":
        raise CheckpointError(f"{path} holds {about.get('kind', 'no weights of ours')}: no U-Net")
    raw = {k: tuple(v) if isinstance(v, list) else v for k, v in about["plan"].items()}
    plan = UNetPlan(**raw)
    network = build(plan)
    check_state(state, network.state_dict(), path)
    network.load_state_dict(state)
    return UNet(network.eval(), plan, about["steps"])


def build(plan: UNetPlan) -> nn.Module:
    """MONAI's U-Net with residual units (Kerfoot et al., 2018), randomly initialised."""
    from monai.networks.nets import UNet as MonaiUNet

    torch.manual_seed(plan.seed)
    network: nn.Module = MonaiUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=plan.channels,
        strides=(2,) * (len(plan.channels) - 1),
        num_res_units=2,
        # Batches are small and CT's grey values are fixed: statistics of each slice suffice.
        norm="INSTANCE",
    )
    return network


def train(
    plan: UNetPlan,
    source: Source,
    report: Callable[[int, float, float], None] = lambda step, share, loss: None,
    clock: Callable[[], float] = time.perf_counter,
    workers: int = 1,
) -> UNet:
    """Train for ``plan.minutes`` on the slices of ``source``.

    The loss is the mean of cross entropy and soft Dice over the batch, because Dice is undefined
    for a slice without blood.

    Args:
        plan: how to train.
        source: slices [S, S] with bleeds.
        report: called after each step with its number, the elapsed share of the time, and the loss.
        clock: seconds; called once when the first batch is ready and once per step.
        workers: processes that prepare batches.
    """
    torch.set_flush_denormal(True)  # as the model's own training does
    network = build(plan).train()
    network.to(memory_format=image_format(CPU))  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=0.01)
    loss_of = DiceCrossEntropyLoss(reduction="batch")
    started, steps = math.nan, 0
    for image, blood in stream(Batches(plan, source), itertools.count(), workers):
        if not steps:
            started = clock()
        share = (clock() - started) / (60 * plan.minutes)
        if share >= 1 and steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * falling(share)
        with mixed_precision(CPU, wanted=plan.amp):
            logits = network(image.contiguous(memory_format=image_format(CPU)))
        loss = loss_of(logits.float(), blood)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
        report(steps, share, loss.item())
    return UNet(network.eval().to(memory_format=torch.contiguous_format), plan, steps)


def falling(share: float) -> float:
    """Half a cosine: 1 at the beginning, 0 at the end of the time (``share`` 1)."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def windowed(hu: Tensor, window: tuple[float, float]) -> Tensor:
    """HU scaled from the window to [0, 1] and clipped; any shape."""
    low, high = window
    return ((hu - low) / (high - low)).clamp(0, 1)


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch n, a function of the seed and of n: (image [B, 1, S, S] in [0, 1], blood [B, 1, S, S]
    of 0 and 1)."""

    def __init__(self, plan: UNetPlan, source: Source) -> None:
        self.plan, self.source = plan, source

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.plan.seed, number])
        drawing = Drawing("bleeds", prompts=0)  # augmented as for the model, without clicks
        chosen = rng.integers(len(self.source), size=self.plan.batch)
        drawn = [self.source.draw(int(index), drawing, rng) for index in chosen]
        image = windowed(torch.from_numpy(np.stack([each.hu for each in drawn])), self.plan.window)
        blood = torch.from_numpy(np.stack([each.bleeds for each in drawn])).float()
        return image[:, None], blood[:, None]


def component_at(mask: Mask, click: Point) -> Mask:
    """The 8-connected component of ``mask`` under the click (x, y), or else the nearest one.

    Empty if the mask is.
    """
    labels, count = ndimage.label(mask, structure=EIGHT)
    if not count:
        return np.zeros(mask.shape, bool)
    x, y = round(click[0]), round(click[1])
    if not labels[y, x]:
        rows, columns = np.nonzero(mask)
        nearest = int(np.argmin((rows - y) ** 2 + (columns - x) ** 2))
        y, x = int(rows[nearest]), int(columns[nearest])
    return np.asarray(labels == labels[y, x])


def shipped_plan(minutes: float) -> UNetPlan:
    """The shipped recipe's slices, batch, seed, window and precision."""
    recipe = read_recipe(None)
    return UNetPlan(
        minutes,
        recipe.slices,
        recipe.adapt.batch,
        seed=recipe.seed,
        window=recipe.window,
        amp=recipe.amp,
    )


def trained(plan: UNetPlan, folder: Path = CACHE) -> UNet:
    """Train on the phantoms in ``folder``, which are made first if they do not exist."""
    cache = open_cache(folder, CacheSpec("train", plan.slices))
    return train(plan, PhantomSlices(cache), _told)


def _told(step: int, share: float, loss: float) -> None:
    if step % 50 == 1:
        print(f"U-Net step {step}, {share:.0%} of its time, loss {loss:.3f}", flush=True)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    minutes = f"of training; {RECIPE_MINUTES:g}, if not given: about a round of the shipped recipe"
    parser.add_argument("--minutes", type=float, default=RECIPE_MINUTES, help=minutes)
    parser.add_argument("--cache", type=Path, default=CACHE, help="phantoms; a run's cache will do")
    options: Any = parser.parse_args()
    keep_freed_memory()  # as samihs-train does
    try:
        made = trained(shipped_plan(options.minutes), options.cache)
        made.save(options.out)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    print(f"written  {options.out}: {made.steps} steps in {made.plan.minutes:g} minutes")


if __name__ == "__main__":
    main()
