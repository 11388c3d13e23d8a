"""Seeded phantoms of the head with intracranial hemorrhage, as CT would show them.

`generate_slice` makes one slice for training, `generate_study` a whole series; both evaluate the
same implicit model of a patient. Needs numpy and scipy only.
"""

from .dicom import write_dicom
from .nifti import write_nifti
from .options import BleedType, PhantomOptions, Tissue
from .study import PhantomSlice, PhantomStudy, generate_slice, generate_study
from .truth import suggested_click, truth
from .wear import wear_8bit

__all__ = [
    "BleedType",
    "PhantomOptions",
    "PhantomSlice",
    "PhantomStudy",
    "Tissue",
    "generate_slice",
    "generate_study",
    "suggested_click",
    "truth",
    "wear_8bit",
    "write_dicom",
    "write_nifti",
]
