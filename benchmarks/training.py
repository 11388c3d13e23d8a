"""Samples per second and peak memory of a training step, compared with a plain loop over SAM.

    python benchmarks/training.py [--preset vit_mini] [--image-size 0] [--batch 2] [--prompts 4]

Four ways to the same loss, with the same weights, slices and clicks: this project's step, the same
with activation checkpointing, a plain loop (segment-anything's image encoder on the batch, then its
prompt encoder and mask decoder image by image, as its own forward does), and the step in a process
whose allocator returns freed memory, as is its default; in the others, the loop included, it keeps
freed memory (``samihs_training.compute.allocation``), for a fair comparison. Each runs in its own
process, so that peak memory is its own; rounds go A B C A B C, so that a busy machine slows all
alike. The rate is that of the fastest step, as in ``timeit``. CPU seconds are given beside the
median, because they exclude the time taken by other programs. Writes one JSON file in
``benchmarks/results/`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from record import Record, Series, command_line
from rich.console import Console
from rich.table import Table
from stopwatch import peak_mb
from torch import Tensor

from samihs_runtime.segmentation import FOREGROUND, NOT_A_POINT
from samihs_training.compute.allocation import keep_freed_memory
from samihs_training.compute.hardware import mixed_precision
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.losses import score_loss
from samihs_training.methods import ParameterRefactoring, apply_method
from samihs_training.network.activations import checkpoint_blocks
from samihs_training.network.frames import Frame
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam, preset
from samihs_training.stages.objective import Objective, low_resolution

STEP, RECOMPUTED, LOOP = "step", "step, recomputed activations", "plain loop"
GIVEN_BACK = "step, freed memory given back"
WAYS = (STEP, RECOMPUTED, LOOP, GIVEN_BACK)
WINDOW = (-20.0, 100.0)
SIZE = 512


@dataclass(frozen=True)
class Plan:
    """What a step trains on, and how often it is timed."""

    preset: str = "vit_mini"
    image_size: int = 0
    """0: the preset's own."""
    batch: int = 2
    """Slices."""
    prompts: int = 4
    """Clicks on each."""
    steps: int = 5
    """Timed steps per process."""
    rounds: int = 2
    """Processes for each way."""
    amp: bool = False
    """bfloat16 autocast, where the CPU multiplies it."""

    def arguments(self) -> list[str]:
        """The command-line arguments for this plan."""
        flags = [
            text
            for name, value in asdict(self).items()
            if name != "amp"
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        return [*flags, "--amp"] if self.amp else flags


VIT_B = Plan("vit_b", batch=1, prompts=2, steps=1, rounds=2)
"""At its own 1024 pixels, where activations fill the memory: a step takes most of a minute."""


def measure(plan: Plan) -> Record:
    """Measure each way in turn, in processes of their own."""
    samples: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(plan.rounds):
        for way in WAYS:
            child = [sys.executable, __file__, *plan.arguments(), "--way", way]
            done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
            samples[way].append(json.loads(done.stdout.splitlines()[-1]))
    name = f"training-{plan.preset}-{plan.image_size or 'own'}"
    settings = {
        **asdict(plan),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "reference": LOOP,
    }
    return Record(name, tuple(_all_series(samples)), settings)


def measure_way(plan: Plan, way: str) -> dict[str, Any]:
    """Seconds of each step after a warm-up step, the first loss, and peak memory in MB."""
    if way != GIVEN_BACK:
        keep_freed_memory()
    torch.manual_seed(0)
    config = Frame(plan.image_size or None).of(preset(plan.preset))
    sam = build_sam(config)
    apply_method(ParameterRefactoring(), sam)
    if way == RECOMPUTED:
        checkpoint_blocks(sam)
    stage = StageConfig(steps=1, learning_rate=1e-4)
    recipe = Recipe(adapt=stage, base=stage, window=WINDOW, amp=plan.amp)
    model = SamihsModel(sam, config)
    objective = Objective(model, recipe)
    batch = disks(plan.batch, plan.prompts)
    parameters = [each for each in sam.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 1e-4)
    before = peak_mb()
    losses, seconds, cpu = [], [], []
    for _ in range(1 + plan.steps):
        started, cpu_started = time.perf_counter(), time.process_time()
        loss = plain_loss(model, batch, recipe) if way == LOOP else objective(batch).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    return {
        "first_loss": losses[0],
        "seconds": seconds[1:],
        "cpu_seconds": cpu[1:],
        "peak_mb": peak_mb(),
        "model_mb": before,
    }


def plain_loss(model: SamihsModel, batch: Batch, recipe: Recipe) -> Tensor:
    """The loop that a user of segment-anything would write: decode one image after the other."""
    sam, config = model.sam, model.config
    prompts = len(batch.points) // len(batch.hu)
    target = low_resolution(batch.masks, config.mask_size)
    answers = []
    with mixed_precision(torch.device("cpu"), wanted=recipe.amp):
        embeddings = model.encode(batch.hu, batch.window)
        for image, embedding in enumerate(embeddings):
            mine = slice(image * prompts, (image + 1) * prompts)
            if config.pyramid_width:  # SAM's own modules cannot give its finer mask
                prompt = batch.points[mine], batch.labels[mine]
                answers.append(model.decode(embedding[None], *prompt, slice_size=SIZE))
                continue
            clicks = batch.points[mine, :1]
            points = clicks * (config.image_size / SIZE)
            sparse, dense = sam.prompt_encoder(
                points=(points, torch.ones(points.shape[:2])), boxes=None, masks=None
            )
            answers.append(
                sam.mask_decoder(
                    image_embeddings=embedding[None],
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )
            )
    logits = torch.cat([mask for mask, _ in answers]).float()
    score = torch.cat([score.flatten() for _, score in answers]).float()
    return recipe.make_loss()(logits, target) + score_loss(score, logits, target)


def disks(slices: int, prompts: int, size: int = SIZE) -> Batch:
    """Disks in noise: the cost of a step does not depend on the content of the slice."""
    generator = torch.Generator().manual_seed(1)
    hu = torch.randn(slices, 1, size, size, generator=generator) * 20 + 40
    points = torch.randint(100, size - 100, (slices * prompts, 1, 2), generator=generator).float()
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre_x, centre_y = points[:, 0, 0, None, None], points[:, 0, 1, None, None]
    masks = (columns - centre_x) ** 2 + (rows - centre_y) ** 2 < 30**2
    window = torch.tensor([WINDOW]).expand(slices, 2)
    pads = torch.zeros_like(points)
    labels = torch.tensor([[FOREGROUND, NOT_A_POINT]]).expand(len(points), 2)
    asked = masks[:, None].to(torch.uint8)
    bleeds = asked.view(slices, prompts, size, size).amax(1, keepdim=True)
    return Batch(hu, window, torch.cat([points, pads], 1), labels, asked, bleeds)


def _print(record: Record, samples_per_step: int) -> None:
    columns = ("step", "step, CPU time", "peak memory", "peak memory above the model", "first loss")
    head = ("s/step", "CPU s/step", "peak MB", "above the model MB", "first loss")
    table = Table("way", "samples/s, fastest step", *head)
    for way in WAYS:
        found = {each.quantity: each for each in record.series if each.subject == way}
        rate = samples_per_step / min(found["step"].samples)
        medians = (f"{found[name].median:.4g}" for name in columns)
        table.add_row(way, f"{rate:.2f}", *medians)
    Console().print(table)


def _all_series(samples: dict[str, list[dict[str, Any]]]) -> Iterator[Series]:
    for way, rounds in samples.items():
        for key, what in (("seconds", "step"), ("cpu_seconds", "step, CPU time")):
            yield Series(way, what, "s", tuple(value for each in rounds for value in each[key]))
        yield Series(way, "peak memory", "MB", tuple(each["peak_mb"] for each in rounds))
        above = tuple(each["peak_mb"] - each["model_mb"] for each in rounds)
        yield Series(way, "peak memory above the model", "MB", above)
        yield Series(way, "first loss", "", tuple(each["first_loss"] for each in rounds))


def main() -> None:
    """Measure each way in turn, print, write; with ``--way``, be one of the measuring processes."""
    parser = command_line(__doc__)
    usual = Plan()
    parser.add_argument("--preset", default=usual.preset)
    parser.add_argument("--image-size", type=int, default=0, help="0: the preset's own")
    parser.add_argument("--batch", type=int, default=usual.batch, help="slices")
    parser.add_argument("--prompts", type=int, default=usual.prompts, help="clicks on each")
    parser.add_argument("--steps", type=int, default=usual.steps, help="timed steps of a process")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="processes for each way")
    parser.add_argument("--amp", action="store_true", help="bfloat16, where the CPU has it")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    plan = Plan(**{each.name: getattr(options, each.name) for each in fields(Plan)})
    if options.way:
        print(json.dumps(measure_way(plan, options.way)))
        return
    record = measure(plan)
    _print(record, plan.batch * plan.prompts)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
