"""All ways to adapt SAM, by name.

========== ======== =========================================================================
name       merges   what is trained, besides prompt encoder and mask decoder
========== ======== =========================================================================
pr         yes      PR adapters before attention and MLP, the paper's (``adapters.py``)
lora       yes      low-rank updates of ``attn.qkv`` and ``mlp.lin1``
bottleneck no       small MLPs after attention and MLP
vpt        no       learnt tokens that every block's attention sees
decoder    yes      nothing
full       yes      all of SAM
frozen     yes      nothing, not even prompt encoder and mask decoder
========== ======== =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from samihs_runtime.errors import UsageError
from samihs_training.methods.base import (
    Method,
    apply_method,
    count_by_part,
    score_heads,
    trained_parameters,
)
from samihs_training.methods.bottleneck import Bottleneck
from samihs_training.methods.lora import LoRA
from samihs_training.methods.plain import DecoderOnly, Frozen, FullFineTuning
from samihs_training.methods.pr import ParameterRefactoring
from samihs_training.methods.visual_prompts import VisualPrompts
from samihs_training.options import with_options

__all__ = [
    "METHODS", "Bottleneck", "DecoderOnly", "Frozen", "FullFineTuning", "LoRA", "Method",
    "ParameterRefactoring", "VisualPrompts", "apply_method", "count_by_part", "describe_method",
    "make_method", "score_heads", "trained_parameters",
]  # fmt: skip

METHODS: dict[str, type[Method]] = {
    each.name: each
    for each in (
        ParameterRefactoring, LoRA, Bottleneck, VisualPrompts, DecoderOnly, FullFineTuning, Frozen,
    )
}  # fmt: skip


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method of that name; a :class:`UsageError` names what is unknown, and what is known."""
    if name not in METHODS:
        raise UsageError(f"no method {name!r}: there are {', '.join(METHODS)}")
    given = dict(options or {})
    if "sites" in given:
        given["sites"] = tuple(given["sites"])
    return with_options(METHODS[name], given, f"method {name}")


def describe_method(method: Method) -> dict[str, Any]:
    """What :func:`make_method` takes: ``{"method": name, "options": {...}}``."""
    return {"method": method.name, "options": asdict(method)}  # type: ignore[call-overload]
