"""The base of all ways to adapt SAM: what they add to the model, and what they train."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from samihs_training.adapters import Adapter

HEADS = ("prompt_encoder.", "mask_decoder.")
"""Parts of SAM that every method but ``frozen`` trains as well, as the paper does."""
SCORE_HEADS = ("mask_decoder.iou_prediction_head.", "mask_decoder.evidence.")
"""Parts that predict a mask's IoU and do not change the mask."""


class Method:
    """One way to adapt SAM. Subclasses are frozen dataclasses: their fields are its options."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for lists and reports."""
    merges: ClassVar[bool]
    """Whether the adapted encoder can be written as a plain SAM's, at no extra cost."""

    def insert(self, sam: nn.Module) -> None:
        """Add the method's layers to ``sam``, in place. Most methods start as the identity."""

    def trained(self, sam: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name, of a SAM that :meth:`insert` was called on.

        A parameter that several layers share appears once, under its first name.
        """
        return trained_parameters(sam)


def trained_parameters(sam: nn.Module) -> dict[str, nn.Parameter]:
    """What most methods train, by name: their own layers, prompt encoder and mask decoder."""
    layers = tuple(f"{name}." for name, each in sam.named_modules() if isinstance(each, Adapter))
    return {
        name: parameter
        for name, parameter in sam.named_parameters()
        if name.startswith(HEADS + layers)
    }


def apply_method(method: Method, sam: nn.Module) -> dict[str, nn.Parameter]:
    """Insert the method's layers into ``sam`` and freeze the rest; returns what is trained."""
    method.insert(sam)
    trained = method.trained(sam)
    _freeze_but(sam, trained)
    return trained


def score_heads(sam: nn.Module) -> dict[str, nn.Parameter]:
    """Freeze all but the heads that predict a mask's IoU; returns their parameters."""
    heads = {name: each for name, each in sam.named_parameters() if name.startswith(SCORE_HEADS)}
    _freeze_but(sam, heads)
    return heads


def _freeze_but(sam: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    chosen = {id(parameter) for parameter in trained.values()}
    for parameter in sam.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def count_by_part(sam: nn.Module, trained: dict[str, nn.Parameter]) -> dict[str, int]:
    """Trained parameters by part: adapters, image_encoder (SAM's own), prompt_encoder, ..."""
    added = {
        id(parameter)
        for each in sam.modules()
        if isinstance(each, Adapter)
        for parameter in each.parameters()
    }
    counts: dict[str, int] = {}
    for name, parameter in trained.items():
        part = "adapters" if id(parameter) in added else name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
