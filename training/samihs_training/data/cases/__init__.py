"""Real head CT with hemorrhage masks: where the files lie, and what is read from them.

Layouts, by name:

- ``bcihm``: ``ct_scans/*.nii`` and ``masks/*.nii`` of one name (PhysioNet ct-ich 1.3.1)
- ``instance``: ``data/*.nii.gz`` and ``label/*.nii.gz`` of one name (INSTANCE 2022)
- ``pairs``: anywhere below the root, ``NAME.nii[.gz]`` beside ``NAME_mask.nii[.gz]``, or
  ``image.nii[.gz]`` beside ``mask.nii[.gz]`` in a folder a case (what ``samihs-phantom`` writes)
- ``dicom``: a folder a case, of one CT series and one DICOM SEG
- ``pictures``: 8-bit windowed slices and masks (``pictures.py``)

Arrays are [slices, rows, columns], rows to the back and columns to the patient's left, as DICOM's
axial slices lie.
"""
