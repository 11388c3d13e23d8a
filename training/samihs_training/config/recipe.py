"""A whole recipe: its stages, its data, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.errors import BundleError, UsageError
from samihs_training.config.data import DataConfig
from samihs_training.config.stage import StageConfig
from samihs_training.losses import Loss, build_loss
from samihs_training.methods import Method, ParameterRefactoring, make_method
from samihs_training.network.frames import Frame, Grid
from samihs_training.prompts import prompt_rule


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: data, a base (from scratch or from a file), and how it is adapted."""

    adapt: StageConfig
    mask_threshold: StageConfig | None = None
    """A stage after [adapt] that chooses the logit above which a pixel belongs to the mask."""
    score: StageConfig | None = None
    """A final stage that trains only the heads that predict a mask's IoU: masks do not change."""
    base: StageConfig | None = None
    """How a base is trained from scratch; None where ``base_checkpoint`` gives one."""
    start: str = ""
    """A base whose weights [base] starts from, for a further round; empty: fresh ones."""
    base_checkpoint: str = ""
    """A base to adapt: our safetensors or Meta's ``.pth``."""
    adapters: str = ""
    """Adapters of that base, whose weights stay as they are: only [mask_threshold] and [score] are
    run."""
    image_size: int = 0
    """Image size at which that base is loaded, pixels; 0: its own."""
    grid: Grid = "reduced"
    """Whether the token grid shrinks with a smaller frame, or stays the base's."""
    preset: str = "vit_mini"
    method: str = "pr"
    """How the base is adapted (``samihs_training.methods``)."""
    method_options: dict[str, Any] = field(default_factory=dict)
    rank: int = 32
    """Rank of the PR adapters, unless ``method_options`` gives it."""
    slices: int = 4000
    """Phantom slices in the training cache."""
    first_slice: int = 0
    """Number of the first one in the sequence of training phantoms: a further round sees new
    ones."""
    validation_slices: int = 64
    """Phantom slices for validation; never among those trained on."""
    validate_every: int = 0
    """Steps between validations; 0: none, and the last weights count as the best."""
    validation_prompt: str = ""
    """Name of the prompt rule for validation; empty: that of the stage."""
    data: DataConfig | None = None
    """The data set to adapt to; None: phantoms. A base is always trained on phantoms, as no data
    set labels the other structures."""
    window: tuple[float, float] = (-20.0, 100.0)
    """HU. The range that public 8-bit archives of head CT keep (level 40, width 120)."""
    window_rule: Literal["fixed", "percentiles"] = "fixed"
    """``percentiles``: ``window`` is two percentiles of each slice, as in the authors' code."""
    seed: int = 1
    loss: str = "boundary_sensitive"
    """Name of the masks' loss (``samihs_training.losses``); the error of the score is added."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    amp: bool = True
    """Mixed precision, where the device has instructions for ``amp_dtype`` (``hardware.py``)."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """With fp16 the loss is scaled, so that small gradients survive."""
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.base_checkpoint):
            raise UsageError(
                "a recipe needs a [base] stage or a base_checkpoint (--base), and not both: it "
                f"has {'neither' if self.base is None else 'both'}"
            )
        if self.start and self.base is None:
            raise UsageError(
                f"start = {self.start!r}: expected a [base] stage, which starts from these weights"
            )
        if self.adapters and not (self.base_checkpoint and (self.mask_threshold or self.score)):
            raise UsageError(
                f"adapters = {self.adapters!r}: expected their base_checkpoint, and at least "
                "one of the stages [mask_threshold] and [score], the only ones that are run"
            )
        if self.adapters and (self.validate_every or self.image_size):
            raise UsageError(
                "validate_every, image_size: no effect with adapters, whose weights and frame stay "
                "as they are"
            )
        _refuse_idle(self)
        for name in ("base", "adapt", "score"):
            stage = getattr(self, name)
            if stage is not None and not stage.learning_rate:
                raise UsageError(f"[{name}] trains weights: it needs a learning_rate above 0")
        if self.amp_dtype not in ("bf16", "fp16"):
            raise UsageError(f"amp_dtype = {self.amp_dtype!r}: expected bf16 or fp16")
        self.windowing()
        self.make_method()
        if self.score is not None and self.method == "frozen" and not self.adapters:
            raise UsageError("[score] trains heads of the mask decoder: method frozen trains none")
        self.make_loss()
        if self.validation_prompt:
            prompt_rule(self.validation_prompt)
        Frame(self.image_size or None, self.grid)

    def make_method(self) -> Method:
        """The method with its options."""
        options = dict(self.method_options)
        if self.method == ParameterRefactoring.name:
            options.setdefault("rank", self.rank)
        return make_method(self.method, options)

    def make_loss(self, stage: StageConfig | None = None) -> Loss:
        """The loss with its options: the stage's own, where it has one."""
        if stage is not None and stage.loss:
            return build_loss(stage.loss, **stage.loss_options)
        return build_loss(self.loss, **self.loss_options)

    def windowing(self) -> WindowRule:
        """The rule that gives a slice's window."""
        try:
            return WindowRule(self.window_rule, *self.window)
        except BundleError as error:
            raise UsageError(
                f"window = {list(self.window)}, window_rule = {self.window_rule!r}: expected low "
                "below high, in HU (fixed) or in percentiles from 0 to 100"
            ) from error

    @property
    def frame(self) -> Frame:
        """The frame that a given base is loaded in."""
        return Frame(self.image_size or None, self.grid)


_LISTENING = (
    "loss", "loss_options", "score_weight", "bleed_map", "empty_masks", "optimiser", "schedule",
    "halve_every", "checkpoint_activations", "compile", "crop",
)  # fmt: skip
_IDLE = {
    "base": ("passes",),
    "adapt": ("passes",),
    "mask_threshold": (
        *_LISTENING, "learning_rate", "weight_decay", "warmup", "passes", "clip", "ema",
        "negatives", "correct", "at_slice_size",
    ),
    "score": _LISTENING,
}  # fmt: skip
"""Fields that have no effect in a stage."""


def _refuse_idle(recipe: Recipe) -> None:
    usual = {each.name: each.default for each in fields(StageConfig)} | {"loss_options": {}}
    for name, idle in _IDLE.items():
        stage = getattr(recipe, name)
        given = [each for each in idle if stage and getattr(stage, each) != usual[each]]
        if given:
            raise UsageError(f"[{name}]: {', '.join(given)} would change nothing there")
