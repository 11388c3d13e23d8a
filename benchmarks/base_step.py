"""Seconds per step of the shipped model's [base] stage, in which all its weights are trained.

    python benchmarks/base_step.py [--batch 6] [--rounds 3]

The step as ``fit`` runs most of them on this CPU, and with one thing changed: the pyramid not
compiled, images in the other memory layout (channels first instead of last, or vice versa), torch's
own Muon instead of ours, quarters of four times as many slices (``crop``), float32 where the CPU
multiplies bfloat16. On other CPUs, emulated bfloat16 is left out: a step would take half a minute.
One process, A B C A B C, on disks in noise, since the cost of a step does not depend on the content
of the slice. Writes one JSON file in ``benchmarks/results/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from record import Record, Series, command_line
from rich.console import Console
from rich.table import Table
from stopwatch import interleaved
from torch import nn

from samihs_training.compute import hardware
from samihs_training.compute.allocation import keep_freed_memory
from samihs_training.config import read_recipe
from samihs_training.network.bleed_map import BleedMap
from samihs_training.network.cropped import CroppedModel, crops_of
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.pyramid import compile_encoder
from samihs_training.network.sam import build_sam, preset
from samihs_training.stages import optimisation
from samihs_training.stages.map_training import MapTraining
from samihs_training.stages.objective import Objective
from training import SIZE, disks

CPU = torch.device("cpu")
OURS = "as fit takes it"


@dataclass(frozen=True)
class Way:
    """How a step is run."""

    images: torch.memory_format
    mixed: bool = True
    """bfloat16, where the CPU multiplies it."""
    muon: type[optimisation.Muon] = optimisation.Muon
    compiled: bool = True
    """The pyramid, as in the recipe."""
    crop: int = 0
    """Side of crops, pixels: as many of them as have the slices' area; 0: whole slices."""


class TorchMuon(optimisation.Muon):
    """Muon with torch's own step."""

    step = torch.optim.Muon.step


def ways() -> dict[str, Way]:
    """The ways by name, without those that are the default on this CPU anyway."""
    ours = Way(hardware.image_format(CPU))
    last = ours.images is torch.channels_last
    other = torch.contiguous_format if last else torch.channels_last
    named = {
        OURS: ours,
        f"channels {'first' if last else 'last'}": replace(ours, images=other),
        "torch's Muon": replace(ours, muon=TorchMuon),
        "not compiled": replace(ours, compiled=False),
        "quarters of four times as many slices": replace(ours, crop=SIZE // 2),
    }
    if hardware.multiplies(CPU, torch.bfloat16):
        named["float32"] = replace(ours, mixed=False)
    return named


def stepping(way: Way, batch: int) -> Callable[[], object]:
    """A step on ``batch`` slices, with weights and an optimiser of its own."""
    recipe = replace(read_recipe(None), amp=way.mixed)
    assert recipe.base is not None
    torch.manual_seed(0)
    config = preset(recipe.preset)
    model = SamihsModel(initialised(build_sam(config)), config).train()
    model.to(memory_format=way.images)  # type: ignore[call-overload]
    seen = CroppedModel(model, crops_of(config, way.crop)) if way.crop else model
    if way.compiled:
        compile_encoder(seen.sam.image_encoder)
    bleed_map = BleedMap(config.channels)
    objective = Objective(seen, recipe, recipe.base, bleed_map)
    trained = dict(model.sam.named_parameters())
    mapping = MapTraining(bleed_map, recipe.base.clip)
    with patch.object(optimisation, "Muon", way.muon):
        optimisers = [*optimisation.make_optimiser(trained, recipe.base), mapping.optimiser]
    asked = disks(batch, recipe.base.prompts)
    if way.crop:
        count = batch * (SIZE // way.crop) ** 2
        origins = torch.zeros(count, 2, dtype=torch.int64)
        asked = replace(disks(count, recipe.base.prompts, way.crop), origins=origins)

    def step() -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective(asked).loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), recipe.base.clip)
        mapping.clip_gradient()
        for optimiser in optimisers:
            optimiser.step()

    return step


def measure(batch: int = 6, rounds: int = 3) -> Record:
    """Each way in turn, on ``batch`` slices."""
    keep_freed_memory()
    torch.set_flush_denormal(True)
    taken = interleaved({name: stepping(way, batch) for name, way in ways().items()}, rounds)
    series = tuple(Series(name, "base step", "s", seconds) for name, seconds in taken.items())
    settings = {"batch": batch, "threads": torch.get_num_threads(), "reference": OURS}
    return Record("base-step", series, settings)


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__)
    parser.add_argument("--batch", type=int, default=6, help="slices")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    record = measure(options.batch, options.rounds)
    table = Table("way", "s/step", "times ours")
    ours = record.series[0].median
    for each in record.series:
        table.add_row(each.subject, f"{each.median:.2f}", f"{each.median / ours:.2f}")
    Console().print(table)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
