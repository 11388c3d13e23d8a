"""The torch-free runtime: a CT study and a click in, a mask, its volume and DICOM objects out.

Importing this package is cheap on purpose: the heavy modules load where they are used, so that
``samihs-infer --help`` answers at once.
"""
