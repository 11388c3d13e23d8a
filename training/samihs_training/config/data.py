"""The data set that a run adapts to, and how it is split and augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from samihs_runtime.errors import UsageError
from samihs_training.data.augmentation import Augmentation
from samihs_training.data.cases.case import LAYOUTS, Layout
from samihs_training.data.cases.labels import Labels
from samihs_training.options import with_options


@dataclass(frozen=True)
class DataConfig:
    """Scans and masks that a model is adapted to, and which patients are held out."""

    root: str
    """Folder of the data set (docs/data.md)."""
    layout: Layout | Literal[""] = ""
    """Empty: recognised."""
    labels: Labels = ()
    """Those of the masks that are hemorrhage, if they have others: numbers, or names."""
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
    """Rows and columns that slices are resized to, as in the runtime; the bundle has the same."""
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
