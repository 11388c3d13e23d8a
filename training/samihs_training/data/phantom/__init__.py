"""Seeded phantoms of the head with intracranial hemorrhage, as CT would show them.

`generate_slice` makes one slice for training, `generate_study` a whole series; both evaluate the
same implicit model of a patient. Needs numpy and scipy only.
"""

from .options import BleedType, PhantomOptions, Tissue
from .study import PhantomSlice, PhantomStudy, generate_slice, generate_study
from .wear import wear_8bit

__all__ = [
    "BleedType", "PhantomOptions", "PhantomSlice", "PhantomStudy", "Tissue", "generate_slice",
    "generate_study", "wear_8bit",
]
