"""Real head CT with hemorrhage masks: where the files are, and what is read from them.

Layouts, by name:

- ``bcihm``: ``ct_scans/*.nii`` and ``masks/*.nii`` of the same name (PhysioNet ct-ich 1.3.1)
- ``instance``: ``data/*.nii.gz`` and ``label/*.nii.gz`` of the same name (INSTANCE 2022)
- ``nnunet``: ``imagesTr/NAME_0000.nii.gz`` and ``labelsTr/NAME.nii.gz`` (nnU-Net)
- ``pairs``: anywhere below the root, ``NAME.nii[.gz]`` beside ``NAME_mask.nii[.gz]``, or
  ``image.nii[.gz]`` beside ``mask.nii[.gz]`` in a folder per case (what ``samihs-phantom`` writes)
- ``dicom``: CT series and the DICOM SEG drawn on them, in any folders (``dicom_cases.py``)
- ``pictures``: 8-bit windowed slices and masks (``pictures.py``)

Arrays are [slices, rows, columns], rows to the back and columns to the patient's left, as DICOM's
axial slices lie.
"""
