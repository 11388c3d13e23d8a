"""How one stage of a run is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from samihs_runtime.errors import UsageError
from samihs_training.losses import build_loss
from samihs_training.prompts import PromptRule, prompt_rule


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """Optimiser steps, not minutes: a busy machine would train less, and nobody would notice."""
    learning_rate: float = 0.0
    """Peak of the schedule; every stage that trains weights needs one."""
    batch: int = 4
    """Slices per step, over all processes and pieces."""
    crop: int = 0
    """Side of the part of each slice that is trained on, pixels of the model's frame; 0: whole
    slices. In the time that a batch of slices takes, four times as many quarters can be seen
    (``network/cropped.py``)."""
    prompts: int = 4
    """Prompts per slice: the encoder runs once for all of them."""
    prompt: str = "hand"
    """How each prompt points at its target (``samihs_training.prompts``)."""
    prompt_options: dict[str, Any] = field(default_factory=dict)
    """Options of that rule, and ``noise_px``."""
    negatives: float = 0.3
    """Share of prompts placed where nothing bleeds; none for a base, which learns any structure."""
    empty_masks: bool = True
    """Whether a prompt where nothing bleeds asks for an empty mask, or trains the score alone: if
    the score tells the two apart, masks need not learn to leave out what is doubtful."""
    optimiser: Literal["adamw", "adam", "muon"] = "adamw"
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises (cosine)."""
    halve_every: int = 0
    """Steps after which the learning rate halves, again and again (step); 0: never."""
    at_slice_size: bool = False
    """Compare masks with the truth as the runtime draws them, enlarged to the slice's pixels,
    rather than on the decoder's cells: rounded to these, a lesion of ten cells changes shape."""
    passes: int = 8
    """How many times the heads of [score] are trained on the answers to all of its prompts."""
    correct: float = 0.35
    """Share of steps with a second, corrective click on any pixel that the first answer got wrong,
    with that answer as the prior mask."""
    loss: str = ""
    """Name of this stage's loss; empty: the recipe's."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """Options of that loss."""
    score_weight: float = 1.0
    """Weight of the predicted IoU's squared error, which is added to the mask's loss."""
    bleed_map: float = 0.0
    """Weight of the loss of a map of all blood, predicted from a pyramid's finest features by a
    head that is not kept (``network/bleed_map.py``); 0: none."""
    clip: float = 1.0
    """Upper bound of the gradient's norm; 0: none."""
    accumulate: int = 1
    """Pieces that a step's batch is cut into: less memory, the same gradient. It differs slightly
    for losses that sum over the batch, and without ``empty_masks``, where the prompts with a mask
    are averaged piece by piece; and corrective clicks are drawn piece by piece."""
    checkpoint_activations: bool = False
    """Keep only each encoder block's input and recompute the rest: less memory, more time."""
    compile: bool = False
    """torch.compile the image encoder, or only its pyramid, if it has one
    (``network/pyramid.py``)."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then validated and kept; 0: off."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.prompts, self.passes) < 1 or self.learning_rate < 0:
            raise UsageError(
                "a stage needs steps, batch, prompts and passes above 0, and a learning_rate of 0 "
                "or more"
            )
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise UsageError(
                f"accumulate = {self.accumulate}: expected a number of pieces that divides "
                f"batch = {self.batch}"
            )
        for name in ("score_weight", "bleed_map", "weight_decay", "clip", "halve_every", "crop"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} = {getattr(self, name)}: expected 0 or more")
        for name in ("negatives", "correct"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} = {getattr(self, name)}: expected a share from 0 to 1")
        self.rule()
        if self.loss_options and not self.loss:
            raise UsageError("loss_options of a stage: expected loss beside them, which names it")
        if self.loss:
            build_loss(self.loss, **self.loss_options)
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema = {self.ema}: expected a decay from 0 (off) to below 1")
        for name, given, known in (
            ("optimiser", self.optimiser, ("adamw", "adam", "muon")),
            ("schedule", self.schedule, ("cosine", "step")),
        ):
            if given not in known:
                raise UsageError(f"{name} = {given!r}: expected {' or '.join(known)}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Raise a UsageError if the rate would not go as the fields say."""
        if not 0 <= self.warmup < 1:
            raise UsageError(
                f"warmup = {self.warmup}: expected a share of the steps, from 0 to below 1"
            )
        if self.halve_every and self.schedule != "step":
            raise UsageError(
                f"halve_every = {self.halve_every} would change nothing: expected schedule = "
                "'step' beside it"
            )
        if self.warmup != StageConfig.warmup and self.schedule != "cosine":
            raise UsageError(
                f"warmup = {self.warmup} would change nothing with schedule = 'step': leave it out"
            )

    def rule(self) -> PromptRule:
        """The prompt rule with its options."""
        return prompt_rule(self.prompt, **self.prompt_options)
