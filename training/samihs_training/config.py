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
from samihs_training.data.volumes import LAYOUTS, Layout
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
    """Optimiser steps. Not minutes: a busy machine would train less, and nobody would know."""
    learning_rate: float
    batch: int = 4
    """Slices per step, over all processes and pieces."""
    prompts: int = 4
    """Prompts per slice: the encoder runs once for all of them."""
    prompt: str = "hand"
    """How each of them points (``samihs_training.prompts``)."""
    prompt_options: dict[str, Any] = field(default_factory=dict)
    """Options of that rule, and ``noise_px``."""
    negatives: float = 0.3
    """Share of the prompts where nothing bleeds; the base, which learns any structure, has none."""
    empty_masks: bool = True
    """Whether a prompt where nothing bleeds asks for an empty mask, or teaches the score alone:
    where that tells the two apart, masks need not learn to leave out what is doubtful."""
    optimiser: Literal["adamw", "adam", "muon"] = "adamw"
    weight_decay: float = 0.01
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises (cosine)."""
    halve_every: int = 0
    """Steps after which the learning rate halves, again and again (step); 0: never."""
    at_slice_size: bool = False
    """Judge masks as the runtime draws them, enlarged to the slice's pixels, rather than at the
    decoder's cells: a cell is in or out, and a lesion of ten cells is then another one."""
    passes: int = 8
    """How often the heads of [score] are trained on what the prompts of all its steps told them."""
    correct: float = 0.35
    """Share of steps with a second, corrective click on any pixel that the first answer has wrong,
    and that answer as prior mask."""
    loss: str = ""
    """What is minimised in this stage; empty: the recipe's."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """Options of that loss."""
    score_weight: float = 1.0
    """Weight of the predicted IoU's squared error, beside the mask's loss."""
    bleed_map: float = 0.0
    """Weight of the loss of a map of all blood, asked of a pyramid's finest features (a head that
    is not kept: ``network/bleed_map.py``); 0: none."""
    clip: float = 1.0
    """Bound of the gradient's norm; 0: none."""
    accumulate: int = 1
    """Pieces that a step's batch is cut into: less memory, the same gradient. But not quite of
    losses that take sums over the batch, nor without ``empty_masks``, where a piece's prompts
    with a mask are averaged; and corrective clicks are drawn piece by piece."""
    checkpoint_activations: bool = False
    """Keep each encoder block's input only and compute the rest again: less memory, more time."""
    compile: bool = False
    """torch.compile the image encoder, or its pyramid alone (``network/pyramid.py``)."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then what is validated and kept; 0: off."""

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
            raise UsageError("loss_options of a stage: of which loss? name it with loss")
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
    """Folds that are made where no file gives them, stratified by hemorrhage volume."""
    fold_seed: int = 0
    fold: int = 0
    """The fold whose patients are held out: never trained on, validated on."""
    target: Literal["lesion", "slice"] = "lesion"
    """What a prompt asks for: the 8-connected lesion, or all hemorrhage of the slice (authors)."""
    size: int = 512
    """Rows and columns that slices are brought to, as the runtime does; a bundle's default."""
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
        """What training slices go through; None where nothing is asked for."""
        made = with_options(Augmentation, self.augmentation, "augmentation")
        return made if self.augment else None


@dataclass(frozen=True)
class Recipe:
    """The whole of it: data, a base (from scratch or a file), and what adapts it."""

    adapt: StageConfig
    score: StageConfig | None = None
    """Then the heads that predict a mask's IoU, alone: the masks stay as they are."""
    base: StageConfig | None = None
    """How a base is trained from scratch; None where ``base_checkpoint`` gives one."""
    start: str = ""
    """A base whose weights [base] begins with, for a further round; empty: fresh ones."""
    base_checkpoint: str = ""
    """A base to start from, our safetensors or Meta's ``.pth``."""
    adapters: str = ""
    """Adapters of that base, whose masks stay as they are: [score] alone is trained."""
    image_size: int = 0
    """Frame of that base, pixels; 0: its own."""
    grid: Grid = "reduced"
    """Whether a smaller frame has a token grid reduced with it, or keeps the base's."""
    preset: str = "vit_mini"
    method: str = "pr"
    """How the base is adapted (``samihs_training.methods``)."""
    method_options: dict[str, Any] = field(default_factory=dict)
    rank: int = 32
    """Rank of the PR adapters, where ``method_options`` does not say."""
    slices: int = 4000
    """Phantom slices in the training cache."""
    first_slice: int = 0
    """Where in the row of training phantoms these begin: a further round sees new ones."""
    validation_slices: int = 64
    """Phantom slices that validation clicks on; never among those trained on."""
    validate_every: int = 0
    """Steps between two validations; 0: none, and the last weights are the best."""
    validation_prompt: str = ""
    """How validation points, by a rule's name; empty: as the stage does."""
    data: DataConfig | None = None
    """What is adapted to; None: phantoms. A base is always trained on phantoms: no data set says
    what the other structures are."""
    window: tuple[float, float] = (-20.0, 100.0)
    """HU. What public 8-bit archives of head CT keep (level 40, width 120)."""
    window_rule: Literal["fixed", "percentiles"] = "fixed"
    """``percentiles``: ``window`` is two percentiles of each slice, as the authors'."""
    seed: int = 1
    loss: str = "boundary_sensitive"
    """What is minimised (``samihs_training.losses``), beside the error of the score."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    amp: bool = True
    """Mixed precision, where the device multiplies ``amp_dtype`` (``hardware.py``)."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """fp16 scales its loss, so that small gradients survive."""
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.base_checkpoint):
            raise UsageError(
                "a recipe needs a [base] stage or a base_checkpoint, and not both: "
                f"[base] is {'missing' if self.base is None else 'there'}"
            )
        if self.start and self.base is None:
            raise UsageError(
                f"start = {self.start!r}: expected a [base] stage beside it, which begins there"
            )
        if self.adapters and not (self.base_checkpoint and self.score):
            raise UsageError(
                f"adapters = {self.adapters!r}: expected their base_checkpoint, and a [score] "
                "stage, which alone is trained"
            )
        if self.adapters and (self.validate_every or self.image_size):
            raise UsageError(
                "validate_every, image_size: of no use with adapters, whose masks and frame stay "
                "as they are"
            )
        _refuse_idle(self)
        if self.amp_dtype not in ("bf16", "fp16"):
            raise UsageError(f"amp_dtype = {self.amp_dtype!r}: expected bf16 or fp16")
        self.windowing()
        self.make_method()
        if self.score is not None and self.method == "frozen" and not self.adapters:
            raise UsageError("[score] trains heads of the mask decoder: method frozen keeps them")
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
        """How a slice's window comes about."""
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
"""Fields that change nothing in a stage."""


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
    """Refuse a text where a number is expected, and the like; TOML's 1 will do for 1.0."""
    hints = get_type_hints(kind)
    for name, value in raw.items():
        wanted = hints.get(name)
        if wanted not in (bool, int, float, str):
            continue
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise UsageError(f"{where}: {name} = {value!r}: expected {_WORDS[wanted]}")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
