"""One process or several, as started by ``torchrun``, and how they communicate."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as torch_distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
CPU = torch.device("cpu")
PATIENCE = timedelta(hours=6)
"""The others wait while the first process makes the phantoms or reads the data set."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes: logs, checkpoints and reports are the first's alone."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module in DDP where there are several processes, on this process's device."""
        module = module.to(self.device)
        if self.world == 1:
            return module
        # One mask per click leaves the heads of SAM's three other masks without a gradient.
        return DistributedDataParallel(module, find_unused_parameters=True)

    def without_sync(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Reduce gradients only with the ``last`` piece of a step."""
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()

    def mean(self, value: float, weight: float = 1.0) -> float:
        """Weighted mean over all processes; a value of weight 0 may be NaN.

        NaN if no process has a weight, or if the value of one with a weight is NaN.
        """
        if self.world == 1:
            return value if weight else math.nan
        weighted = value * weight if weight else 0.0
        sums = torch.tensor([weighted, weight], dtype=torch.float64, device=self.device)
        torch_distributed.all_reduce(sums)
        total, weights = sums.tolist()
        return total / weights if weights else math.nan

    def gathered(self, mine: T) -> list[T]:
        """The object of every process, by rank. Tensors in it should be on the CPU."""
        if self.world == 1:
            return [mine]
        every: list[Any] = [None] * self.world
        torch_distributed.all_gather_object(every, mine)
        return every

    def wait(self) -> None:
        """Wait until every process gets here."""
        if self.world > 1:
            torch_distributed.barrier()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, as its environment tells; else this one alone.

    NCCL on GPUs, one per process; gloo on CPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_gpu else CPU
    if world == 1:
        yield Processes(device=device)
        return
    if on_gpu:
        torch.cuda.set_device(device)  # else NCCL uses device 0 for all of them
    torch_distributed.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=device if on_gpu else None
    )
    here = Processes(torch_distributed.get_rank(), world, device)
    try:
        yield here
        here.wait()  # no process closes its connections while another still uses them
    finally:
        torch_distributed.destroy_process_group()
