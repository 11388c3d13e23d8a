"""A training recipe: a TOML file, checked field by field into frozen dataclasses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from samihs_runtime.bundle.manifest import WindowRule
from samihs_runtime.errors import BundleError, UsageError
from samihs_training.data.augmentation import Augmentation
from samihs_training.data.cases.case import LAYOUTS, Layout
from samihs_training.losses import Loss, build_loss
from samihs_training.methods import Method, ParameterRefactoring, make_method
from samihs_training.network.frames import Frame, Grid
from samihs_training.options import with_options
from samihs_training.prompts import PromptRule, prompt_rule

T = TypeVar("T")


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    steps: int
    """Optimiser steps, not minutes: a busy machine would train less, and nobody would notice."""
    learning_rate: float
    batch: int = 4
    """Slices per step, over all processes and pieces."""
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
        if min(self.steps, self.batch, self.prompts, self.passes) < 1 or self.learning_rate <= 0:
            raise UsageError(
                "a stage needs steps, learning_rate, batch, prompts and passes above 0"
            )
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise UsageError(
                f"accumulate = {self.accumulate}: expected a number of pieces that divides "
                f"batch = {self.batch}"
            )
        for name, weight in (("score_weight", self.score_weight), ("bleed_map", self.bleed_map)):
            if weight < 0:
                raise UsageError(f"{name} = {weight}: expected 0 or more")
        if not 0 <= self.negatives <= 1:
            raise UsageError(f"negatives = {self.negatives}: expected a share from 0 to 1")
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

    def rule(self) -> PromptRule:
        """The prompt rule with its options."""
        return prompt_rule(self.prompt, **self.prompt_options)


@dataclass(frozen=True)
class DataConfig:
    """Scans and masks that a model is adapted to, and which patients are held out."""

    root: str
    """Folder of the data set (docs/data.md)."""
    layout: Layout | Literal[""] = ""
    """Empty: recognised."""
    folds: str = ""
    """A file that ``samihs-train make-folds`` wrote; empty: folds are made."""
    fold_count: int = 5
    """Number of folds to make if no file gives them, stratified by hemorrhage volume."""
    fold_seed: int = 0
    fold: int = 0
    """The fold whose patients are held out: validated on, never trained on."""
    target: Literal["lesion", "slice"] = "lesion"
    """What a prompt asks for: the 8-connected lesion, or all hemorrhage of the slice (authors)."""
    size: int = 512
    """Rows and columns that slices are resized to, as in the runtime; a bundle's default."""
    augment: bool = True
    augmentation: dict[str, Any] = field(default_factory=dict)
    """Options of :class:`~samihs_training.data.augmentation.Augmentation`."""

    def __post_init__(self) -> None:
        for name, given, known in (
            ("layout", self.layout, ("", *LAYOUTS)),
            ("target", self.target, ("lesion", "slice")),
        ):
            if given not in known:
                raise UsageError(f"{name} = {given!r}: expected {' or '.join(filter(None, known))}")
        if not self.root:
            raise UsageError("root is empty: expected the folder of a data set")
        if self.fold_count < 2 or self.size < 16:
            raise UsageError(
                f"fold_count = {self.fold_count}, size = {self.size}: expected at least 2 and 16"
            )
        if self.fold < 0 or (not self.folds and self.fold >= self.fold_count):
            raise UsageError(f"fold = {self.fold}: expected 0 to {self.fold_count - 1}")
        self.make_augmentation()

    def make_augmentation(self) -> Augmentation | None:
        """The augmentation of training slices; None if there is none."""
        made = with_options(Augmentation, self.augmentation, "augmentation")
        return made if self.augment else None


@dataclass(frozen=True)
class Recipe:
    """A whole recipe: data, a base (from scratch or from a file), and how it is adapted."""

    adapt: StageConfig
    score: StageConfig | None = None
    """A final stage that trains only the heads that predict a mask's IoU: masks do not change."""
    base: StageConfig | None = None
    """How a base is trained from scratch; None where ``base_checkpoint`` gives one."""
    start: str = ""
    """A base whose weights [base] starts from, for a further round; empty: fresh ones."""
    base_checkpoint: str = ""
    """A base to adapt: our safetensors or Meta's ``.pth``."""
    adapters: str = ""
    """Adapters of that base, whose masks stay as they are: only [score] is trained."""
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
                "a recipe needs a [base] stage or a base_checkpoint, and not both: "
                f"[base] is {'missing' if self.base is None else 'there'}"
            )
        if self.start and self.base is None:
            raise UsageError(
                f"start = {self.start!r}: expected a [base] stage, which starts from these weights"
            )
        if self.adapters and not (self.base_checkpoint and self.score):
            raise UsageError(
                f"adapters = {self.adapters!r}: expected their base_checkpoint, and a [score] "
                "stage, the only one that is trained"
            )
        if self.adapters and (self.validate_every or self.image_size):
            raise UsageError(
                "validate_every, image_size: no effect with adapters, whose masks and frame stay "
                "as they are"
            )
        _refuse_idle(self)
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


_IDLE = {
    "base": ("passes",),
    "adapt": ("passes",),
    "score": (
        "loss", "loss_options", "score_weight", "bleed_map", "empty_masks", "optimiser", "schedule",
        "halve_every", "checkpoint_activations", "compile",
    ),
}  # fmt: skip
"""Fields that have no effect in a stage."""


def _refuse_idle(recipe: Recipe) -> None:
    usual = {each.name: each.default for each in fields(StageConfig)} | {"loss_options": {}}
    for name, idle in _IDLE.items():
        stage = getattr(recipe, name)
        given = [each for each in idle if stage and getattr(stage, each) != usual[each]]
        if given:
            raise UsageError(f"[{name}]: {', '.join(given)} would change nothing there")


def read_recipe(path: Path | None, *, quick: bool = False) -> Recipe:
    """The recipe of a TOML file; None: the shipped one (or its quick variant).

    A name without a suffix is one of the shipped recipes, such as ``vit_mini`` or ``authors``.

    Raises:
        UsageError: unreadable, an unknown or missing field, or one of the wrong type.
    """
    if path is None:
        text = _shipped("quick" if quick else "vit_mini")
    elif not path.suffix and not path.exists():
        text = _shipped(str(path))
    else:
        try:
            text = path.read_text()
        except OSError as error:
            raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe {path} is no TOML: {error}") from error
    return recipe_from(raw)


def _shipped(name: str) -> str:
    recipes = resources.files("samihs_training").joinpath("recipes")
    known = sorted(each.name.removesuffix(".toml") for each in recipes.iterdir())
    if name not in known:
        raise UsageError(f"no recipe {name!r}: give a .toml file, or one of {', '.join(known)}")
    return recipes.joinpath(f"{name}.toml").read_text()


def recipe_from(raw: Mapping[str, Any]) -> Recipe:
    """The recipe of a nested dictionary, as TOML gives it; raises :class:`UsageError`."""
    given = dict(raw)
    if given.get("base") is not None:
        given["base"] = _build(StageConfig, given["base"], "[base]")
    given["adapt"] = _build(StageConfig, given.get("adapt"), "[adapt]")
    if given.get("score") is not None:
        given["score"] = _build(StageConfig, given["score"], "[score]")
    if given.get("data") is not None:
        given["data"] = _build(DataConfig, given["data"], "[data]")
    if "window" in given:
        given["window"] = _pair(given["window"])
    return _build(Recipe, given, "recipe")


def _pair(window: Any) -> tuple[float, float]:
    try:
        low, high = window
        return float(low), float(high)
    except (TypeError, ValueError) as error:
        raise UsageError(f"window = {window!r}: expected two numbers, low and high") from error


def _build(kind: type[T], raw: Mapping[str, Any] | None, where: str) -> T:
    if raw is None:
        raise UsageError(f"{where} is missing")
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} = {raw!r}: expected a table")
    _check_types(kind, raw, where)
    return with_options(kind, raw, where)


def _check_types(kind: type[Any], raw: Mapping[str, Any], where: str) -> None:
    """Refuse a string where a number is expected, and the like; TOML's 1 is accepted for 1.0."""
    hints = get_type_hints(kind)
    for name, value in raw.items():
        wanted = hints.get(name)
        if wanted not in (bool, int, float, str):
            continue
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise UsageError(f"{where}: {name} = {value!r}: expected {_WORDS[wanted]}")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
