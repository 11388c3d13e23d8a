"""PR adapters (SAMIHS, arXiv 2311.08190): the layer itself is in ``adapters.py``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from samihs_training.adapters import PRConfig, insert_pr_adapters
from samihs_training.methods.base import Method


@dataclass(frozen=True)
class ParameterRefactoring(PRConfig, Method):
    """``y = x + (x (D * s)) D^T + b`` before the attention, the MLP, or both."""

    name = "pr"
    summary = "parameter-refactoring adapters, the paper's"
    merges = True

    def insert(self, sam: nn.Module) -> None:
        insert_pr_adapters(sam, self)

    @property
    def config(self) -> PRConfig:
        """The same options without the method, as a bundle's manifest holds them."""
        return PRConfig(self.rank, self.sites, self.pad_before_norm)
