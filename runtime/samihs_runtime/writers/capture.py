"""The contact sheet as DICOM Secondary Capture (PS3.3 A.8.1), for a PACS that cannot show a SEG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samihs_runtime.deidentify import SAID
from samihs_runtime.lossy import mark_lossy
from samihs_runtime.quiet_dicom import quiet_dicom
from samihs_runtime.writers.contact_sheet import contact_sheet
from samihs_runtime.writers.furniture import patient_orientation
from samihs_runtime.writers.naming import CAPTURE_SERIES, lesion_name, series_number
from samihs_runtime.writers.overlay import overlay_image
from samihs_runtime.writers.seg_source import source_datasets

if TYPE_CHECKING:
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries


def write_capture(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report, path: Path
) -> None:
    """Write the picture that a reader would look at first, as part of the patient's study.

    That is the contact sheet if the lesion is on several slices, otherwise the clicked slice's
    overlay.

    Raises:
        OSError: the file cannot be written.
    """
    several = len(measurement.slices) > 1
    draw = contact_sheet if several else overlay_image
    picture = np.asarray(draw(series, lesion, measurement, report).convert("RGB"))
    with quiet_dicom():
        build_capture(series, lesion, report, picture).save_as(path)


def build_capture(series: CTSeries, lesion: Lesion, report: Report, picture: Any) -> Any:
    """The object (a ``pydicom.Dataset``) for an RGB picture, uint8 [rows, columns, 3]."""
    import highdicom as hd

    clicked = series.sources[lesion.clicked_slice]
    shown = {lesion.clicked_slice, *(part.index for part in lesion.slices)}
    with quiet_dicom():
        source = source_datasets(series, [lesion.clicked_slice])[0]
        capture = hd.sc.SCImage.from_ref_dataset(
            source,
            pixel_array=picture,
            photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            series_instance_uid=hd.UID(),
            series_number=series_number(CAPTURE_SERIES, report.lesion_number),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="SAMIHS",
            # Also that of the picture: slices are drawn as they are stored.
            patient_orientation=patient_orientation(series.planes[lesion.clicked_slice]),
        )
        # As in the SEG: from_ref_dataset copies only nine attributes of the two modules.
        capture.copy_patient_and_study_information(source)
    name = lesion_name(report.lesion_number)
    capture.SeriesDescription = f"{name}, pictures (SAMIHS, research)"
    capture.BodyPartExamined = "HEAD"  # not paired, so Laterality is not needed (PS3.3 C.7.3.1)
    capture.SoftwareVersions = [f"samihs {report.version}", f"bundle {report.bundle_version}"]
    capture.DerivationDescription = report.statement[:1024]
    mark_lossy(capture, (series.sources[index].lossy for index in sorted(shown)))
    for keyword in SAID:
        if keyword in clicked.header:
            capture[keyword] = clicked.header[keyword]
    # Whether *identity* is burnt in (PS3.3 C.7.6.1.1.1): not in our text, perhaps in the scanner's.
    burnt = [str(series.sources[index].header.get("BurnedInAnnotation") or "") for index in shown]
    own = str(clicked.header.get("BurnedInAnnotation") or "NO")
    capture.BurnedInAnnotation = "YES" if "YES" in burnt else own
    return capture
