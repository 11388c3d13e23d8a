"""The methods that add nothing to SAM: they differ in which of its weights they train."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from samihs_training.methods.base import Method


@dataclass(frozen=True)
class DecoderOnly(Method):
    """Prompt encoder and mask decoder; the image encoder stays as it was."""

    name = "decoder"
    summary = "prompt encoder and mask decoder only"
    merges = True


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Every weight. A checkpoint then holds the whole model."""

    name = "full"
    summary = "full fine-tuning, every weight"
    merges = True

    def trained(self, sam: nn.Module) -> dict[str, nn.Parameter]:
        return dict(sam.named_parameters())


@dataclass(frozen=True)
class Frozen(Method):
    """SAM as it came, with nothing trained: the baseline of the other methods."""

    name = "frozen"
    summary = "SAM as it is, nothing trained"
    merges = True

    def trained(self, sam: nn.Module) -> dict[str, nn.Parameter]:
        return {}
