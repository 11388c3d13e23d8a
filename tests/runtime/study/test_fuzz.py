"""Headers that hypothesis makes up: a series is read rightly or refused in one line, never else."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from samihs_runtime.errors import StudyError
from samihs_runtime.study import list_series, read_study
from tests.runtime.dicom_factory import ct_image, save

DECIMALS = st.one_of(
    st.floats(-2000, 2000).map(lambda value: f"{value:.6g}"),
    st.sampled_from(
        ["", "0", "-0", "1e400", "-1e400", "nan", "inf", "1e-300", "abc", "5 mm", "1,5"]
    ),
)
TEXTS = st.text(st.characters(codec="ascii", exclude_characters="\\\0"), max_size=16)
WHOLE = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 12, 16, 32768, 65535]))


def several(count: int) -> st.SearchStrategy[list[str]]:
    """Mostly as many values as there should be."""
    return st.one_of(
        st.lists(DECIMALS, min_size=count, max_size=count), st.lists(DECIMALS, max_size=count + 2)
    )


ABSENT = object()
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "ImagePositionPatient": several(3),
    "ImageOrientationPatient": several(6),
    "PixelSpacing": several(2),
    "SliceThickness": several(1),
    "SpacingBetweenSlices": several(1),
    "GantryDetectorTilt": several(1),
    "RescaleSlope": several(1),
    "RescaleIntercept": several(1),
    "RescaleType": TEXTS,
    "ImageType": st.lists(TEXTS, max_size=5),
    "Modality": st.one_of(st.sampled_from(["CT", "MR", "OT"]), TEXTS),
    "ConvolutionKernel": TEXTS,
    "SeriesNumber": st.one_of(st.integers(-9, 10**6).map(str), TEXTS),
    "InstanceNumber": st.one_of(st.integers(-9, 10**6).map(str), TEXTS),
    "SeriesInstanceUID": TEXTS,
    "FrameOfReferenceUID": TEXTS,
    "Rows": WHOLE,
    "Columns": WHOLE,
    "BitsStored": WHOLE,
    "HighBit": WHOLE,
    "BitsAllocated": WHOLE,
    "PixelRepresentation": WHOLE,
    "SamplesPerPixel": WHOLE,
    "PixelPaddingValue": WHOLE,
    "PixelPaddingRangeLimit": WHOLE,
    "PhotometricInterpretation": TEXTS,
    "NumberOfFrames": st.one_of(st.integers(-2, 10**6).map(str), TEXTS),
    "SpecificCharacterSet": TEXTS,
}


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Up to three attributes, each with a value made up for it, or absent."""
    chosen = draw(st.lists(st.sampled_from(sorted(ELEMENTS)), max_size=3, unique=True))
    return {name: draw(st.one_of(st.just(ABSENT), ELEMENTS[name])) for name in chosen}


def change(image: Dataset, values: dict[str, Any]) -> None:
    """Written without its VR, a text is whatever the reader's dictionary says: DS, IS, CS, UI."""
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image["PixelData"].VR = "OW"  # else pydicom would look for BitsAllocated
    for keyword, value in values.items():
        if value is ABSENT:
            if keyword in image:
                delattr(image, keyword)
        else:
            image.add_new(keyword, "US" if isinstance(value, int) else "LO", value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, of what is written on purpose
@settings(
    max_examples=400,
    deadline=10_000,  # ms: no header may hang the reader
    suppress_health_check=[HealthCheck.too_slow],
)
@given(one=changes(), other=changes())
def test_any_header_is_read_or_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, values in enumerate(({}, one, other, one)):
            image = ct_image(index)
            change(image, values)
            try:
                save(image, Path(scratch) / f"IM{index}")
            except LookupError:  # a character set, such as "UU", that names a codec not of text
                reject()
        assert_read_or_refused(Path(scratch))


def assert_read_or_refused(folder: Path) -> None:
    series, refusals = None, []
    try:
        series = read_study(folder)
    except StudyError as refusal:
        refusals.append(str(refusal))
    try:
        list_series(folder)
    except StudyError as refusal:
        refusals.append(str(refusal))
    assert not any("\n" in text for text in refusals)
    if series is not None:
        assert_sound(series)


def assert_sound(series: Any) -> None:
    assert len(series) == len(series.sources) == len(series.extents_mm) == len(series.hu)
    assert np.isfinite(series.hu).all()
    assert np.isfinite(series.extents_mm).all()
    assert (series.extents_mm > 0).all()
    for plane in series.planes:
        assert min(plane.spacing) > 0
        assert np.isfinite(plane.position).all()
        assert np.isclose(np.linalg.norm(plane.normal), 1)
    along = [float(np.dot(plane.position, series.planes[0].normal)) for plane in series.planes]
    assert along == sorted(along)
