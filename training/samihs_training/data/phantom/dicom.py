"""Phantom studies as DICOM: a classic CT series with complete headers, and its truth as DICOM SEG.

UIDs, dates and identifiers follow from the seed, so the same phantom gives the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .options import BleedType
from .scanner import PAD_HU
from .study import PhantomStudy
from .truth import write_truth

INTERCEPT = -1024  # stored value 0 is -1024 HU, as most scanners have it
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
KERNEL_NAMES = {"soft": "H30s", "standard": "H40s", "sharp": "H60s"}  # in a common vendor's style
STUDY_DATE = "20240102"
STUDY_TIME = "120000"

_REGIONS = {  # DICOM PS3.16 CID 7151; subdural and epidural space have no code there
    BleedType.INTRAPARENCHYMAL: ("12738006", "Brain"),
    BleedType.INTRAVENTRICULAR: ("35764002", "Brain ventricle"),
    BleedType.SUBARACHNOID: ("35951006", "Subarachnoid space"),
    BleedType.SUBDURAL: ("69536005", "Head"),
    BleedType.EPIDURAL: ("69536005", "Head"),
}
_COLOURS_CIELAB = {  # distinct on grey
    BleedType.INTRAPARENCHYMAL: (35000, 47000, 44000),
    BleedType.INTRAVENTRICULAR: (40000, 30000, 20000),
    BleedType.SUBARACHNOID: (55000, 33000, 50000),
    BleedType.SUBDURAL: (45000, 20000, 45000),
    BleedType.EPIDURAL: (45000, 45000, 25000),
}


def write_dicom(study: PhantomStudy, folder: str | Path, segmentation: bool = False) -> list[Path]:
    """Write the study as IM0001.dcm, IM0002.dcm, ... and truth.json; with a SEG on request.

    The folder is created; files of those names in it are replaced. Instance numbers ascend along
    the slice normal, from the neck to the vertex. `segmentation` adds truth_seg.dcm, one segment
    per type of bleeding present (none is written for a study without any). Returns all paths
    written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = [_image(study, index) for index in range(study.hu.shape[0])]
    paths = []
    for index, image in enumerate(images):
        path = folder / f"IM{index + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    paths.append(write_truth(study, folder))
    if segmentation and study.bleeds.any():
        path = folder / "truth_seg.dcm"
        _segmentation(study, images).save_as(path)
        paths.append(path)
    return paths


def _uid(study: PhantomStudy, *what: str) -> Any:
    """A UID that depends only on the phantom and on what it names."""
    from pydicom.uid import generate_uid

    content = f"{study.hu.shape}{study.spacing_mm}{study.tilt_deg}{study.hu.sum(dtype=np.int64)}"
    return generate_uid(entropy_srcs=["samihs-phantom", str(study.seed), content, *what])


def _image(study: PhantomStudy, index: int) -> Any:
    """One CT Image Storage object (PS3.3 A.3)."""
    from pydicom.dataset import Dataset, FileMetaDataset

    image = Dataset()
    _add_patient_and_study(image, study)
    _add_series_and_equipment(image, study)
    _add_plane(image, study, index)
    _add_acquisition(image, study, index)
    _add_pixels(image, study, index)
    image.SOPClassUID = CT_IMAGE_STORAGE
    image.SOPInstanceUID = _uid(study, "image", str(index))
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    return image


def _add_patient_and_study(image: Any, study: PhantomStudy) -> None:
    """Patient (PS3.3 C.7.1.1), General Study (C.7.2.1), Patient Study (C.7.2.2)."""
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName = "PHANTOM^SAMIHS"
    image.PatientID = f"SAMIHS-{study.seed:06d}"
    image.PatientBirthDate = ""
    image.PatientSex = "O"
    image.PatientAge = f"{round(study.parameters['age_years']):03d}Y"
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "Synthetic: no patient"
    image.StudyInstanceUID = _uid(study, "study")
    image.StudyID = f"{study.seed % 10**9}"
    image.StudyDate = STUDY_DATE
    image.StudyTime = STUDY_TIME
    image.AccessionNumber = f"SAMIHS{study.seed % 10**9:06d}"
    image.ReferringPhysicianName = ""
    image.StudyDescription = "Head phantom (synthetic)"


def _add_series_and_equipment(image: Any, study: PhantomStudy) -> None:
    """General Series (C.7.3.1), Frame of Reference (C.7.4.1), General Equipment (C.7.5.1)."""
    image.Modality = "CT"
    image.SeriesInstanceUID = _uid(study, "series")
    image.SeriesNumber = 2
    image.SeriesDate = STUDY_DATE
    image.SeriesTime = STUDY_TIME
    image.SeriesDescription = f"Head {study.thickness_mm:g} mm (synthetic)"
    image.ProtocolName = "Head (synthetic)"
    image.BodyPartExamined = "HEAD"
    image.PatientPosition = "HFS"
    image.Laterality = ""
    image.FrameOfReferenceUID = _uid(study, "frame of reference")
    image.PositionReferenceIndicator = "OM"
    image.Manufacturer = "SAMIHS"
    image.ManufacturerModelName = "samihs-phantom"
    image.InstitutionName = "None (synthetic)"
    image.StationName = "PHANTOM"
    image.DeviceSerialNumber = "0"
    image.SoftwareVersions = "1"


def _add_plane(image: Any, study: PhantomStudy, index: int) -> None:
    """Image Plane (C.7.6.2): decimal strings of at most 16 characters."""
    directions = (*study.row_direction, *study.column_direction)
    position = study.positions_mm[index]
    image.ImageOrientationPatient = [f"{value:.10f}" for value in directions]
    image.ImagePositionPatient = [f"{value:.6f}" for value in position]
    image.PixelSpacing = [f"{study.pixel_spacing:.8f}"] * 2
    image.SliceThickness = f"{study.thickness_mm:g}"
    image.SpacingBetweenSlices = f"{study.spacing_mm:g}"
    image.SliceLocation = f"{float(position[2]):.4f}"


def _add_acquisition(image: Any, study: PhantomStudy, index: int) -> None:
    """General Image (C.7.6.1), General Acquisition (C.7.10.1), CT Image (C.8.2.1)."""
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.InstanceNumber = index + 1
    image.AcquisitionNumber = 1
    image.AcquisitionDate = image.ContentDate = STUDY_DATE
    image.AcquisitionTime = image.ContentTime = STUDY_TIME
    image.LossyImageCompression = "00"
    image.BurnedInAnnotation = "NO"
    image.KVP = "120"
    image.XRayTubeCurrent = 250
    image.ExposureTime = 1000
    image.Exposure = 250
    image.FilterType = "BODY"
    image.ScanOptions = "AXIAL"
    image.RotationDirection = "CW"
    image.GantryDetectorTilt = f"{study.tilt_deg:g}"
    image.TableHeight = "150"
    image.DataCollectionDiameter = "250"
    image.ReconstructionDiameter = f"{study.pixel_spacing * study.hu.shape[2]:.4f}"
    image.ConvolutionKernel = KERNEL_NAMES[study.parameters["kernel"]]


def _add_pixels(image: Any, study: PhantomStudy, index: int) -> None:
    """Image Pixel (C.7.6.3), VOI LUT (C.11.2), rescale of the CT Image module."""
    hu = study.hu[index]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = hu.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.RescaleIntercept = str(INTERCEPT)
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    if (hu == PAD_HU).any():
        image.PixelPaddingValue = PAD_HU - INTERCEPT
    image.WindowCenter = "40"
    image.WindowWidth = "80"
    stored = (hu.astype(np.int32) - INTERCEPT).astype("<i2")
    image.PixelData = stored.tobytes()


def _segmentation(study: PhantomStudy, images: list[Any]) -> Any:
    """The truth as one BINARY DICOM SEG (PS3.3 A.51)."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    present = [kind for kind in BleedType if kind and (study.bleeds == kind).any()]
    descriptions = []
    for number, kind in enumerate(present, start=1):
        region, meaning = _REGIONS[kind]
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=f"{kind.name.capitalize()} hemorrhage",
                segmented_property_category=Code(
                    "49755003", "SCT", "Morphologically abnormal structure"
                ),
                segmented_property_type=Code("50960005", "SCT", "Hemorrhage"),
                anatomic_regions=[Code(region, "SCT", meaning)],
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
                display_color=hd.color.CIELabColor(*_cielab(_COLOURS_CIELAB[kind])),
            )
        )
    pixels = np.stack([study.bleeds == kind for kind in present], axis=-1)
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=str(_uid(study, "segmentation series")),
        series_number=100,
        sop_instance_uid=str(_uid(study, "segmentation")),
        instance_number=1,
        manufacturer="SAMIHS",
        manufacturer_model_name="samihs-phantom",
        software_versions="1",
        device_serial_number="0",
        series_description="Ground truth (synthetic)",
        content_label="TRUTH",
        omit_empty_frames=True,
    )
    segmentation.ContentDate, segmentation.ContentTime = STUDY_DATE, STUDY_TIME
    segmentation.SeriesDate, segmentation.SeriesTime = STUDY_DATE, STUDY_TIME
    return segmentation


def _cielab(stored: tuple[int, int, int]) -> tuple[float, float, float]:
    """DICOM's 16-bit CIELab (PS3.3 C.10.7.1.1) as L 0 to 100, a and b -128 to 127."""
    return stored[0] / 655.35, stored[1] / 257 - 128, stored[2] / 257 - 128
