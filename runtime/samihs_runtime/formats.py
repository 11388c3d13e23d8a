"""The output formats and the names of their files: a module of its own, so that ``--help`` loads no
writer."""

SEG_NAME = "lesion-seg.dcm"
OVERLAY_NAME = "overlay.png"
SHEET_NAME = "contact-sheet.png"
REPORT_NAME = "report.json"
NIFTI_NAME = "lesion.nii.gz"
CAPTURE_NAME = "contact-sheet.dcm"
SURFACE_NAME = "lesion.stl"

NAMES = {
    "seg": (SEG_NAME,),
    "overlay": (OVERLAY_NAME, SHEET_NAME),
    "json": (REPORT_NAME,),
    "nifti": (NIFTI_NAME,),
    "capture": (CAPTURE_NAME,),
    "stl": (SURFACE_NAME,),
}
"""Format, as ``--format`` takes it, to the names of the files that it may write. The contact sheet
is written if the lesion is on more than one slice."""
RESERVED = tuple(file for files in NAMES.values() for file in files)
"""A folder holds one result: any of these files in it belongs to an earlier one, whichever formats
are to be written."""
DEFAULT_FORMATS = ("seg", "overlay", "json")
DICOM_FORMATS = ("seg", "capture")
"""Written last, since their library takes longest to load (``preparing.py``)."""
CHANGED_BY = {
    "--fractional": ("seg",),
    "--resample": ("nifti",),
    "--identify": ("json",),
    "--deidentify": DICOM_FORMATS,
}
"""Option of ``samihs-infer`` to the formats that it changes."""
