"""Stored values to HU: rescale, padding, bits, transfer syntaxes, and damage."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from samihs_runtime.errors import StudyError
from samihs_runtime.series import CTSeries
from samihs_runtime.study import limits, read_study
from samihs_runtime.study.codestream import codestream_problem, codestream_size, rle_adds_up
from tests.runtime.dicom_factory import PATIENT, ct_image, pattern, save


def stored(values: Any, kind: str, **tags: Any) -> Any:
    """A CT image with these stored values [rows, columns], rescaled by 1 and 0 unless told."""
    array = np.asarray(values, dtype=kind)
    tags = {"RescaleIntercept": 0, "PixelData": array.tobytes(), **tags}
    tags["PixelRepresentation"] = int("i" in kind)
    tags["Rows"], tags["Columns"] = array.shape
    return ct_image(0, **tags)


def read(image: Any, tmp_path: Path) -> CTSeries:
    return read_study(save(image, tmp_path / "IM0"))


def test_rescale_is_each_slices_own(tmp_path: Path) -> None:
    for k, intercept in enumerate((-1024, -1000)):
        save(ct_image(k, RescaleIntercept=intercept), tmp_path / f"IM{k}")
    hu = read_study(tmp_path).hu
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(hu, [pattern(0), pattern(1) + 24])


def test_a_slope_that_is_no_whole_number_gives_float32(tmp_path: Path) -> None:
    series = read(stored([[10, 20]], "<i2", RescaleSlope=0.5, RescaleIntercept=-3), tmp_path)
    assert series.hu.dtype == np.float32
    np.testing.assert_array_equal(series.hu, [[[2, 7]]])


def test_what_int16_cannot_hold_is_kept_in_float32(tmp_path: Path) -> None:
    save(ct_image(0), tmp_path / "IM0")
    metal = ct_image(1)
    metal.PixelData = np.full((12, 10), 65000, "<u2").tobytes()
    save(metal, tmp_path / "IM1")
    series = read_study(tmp_path)
    assert series.hu.dtype == np.float32
    np.testing.assert_array_equal(series.hu[0], pattern(0))
    assert (series.hu[1] == 63976).all()


PADDED: dict[str, tuple[Any, list[float]]] = {
    "signed": (stored([[-2000, 40]], "<i2", PixelPaddingValue=-2000), [-1000, 40]),
    "range": (
        stored([[-2000, -1900, 40]], "<i2", PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1800),
        [-1000, -1000, 40],
    ),
    "tissue is not padding": (stored([[0, -900]], "<i2", PixelPaddingValue=0), [0, -900]),
    "a range that reaches into tissue": (
        stored([[-2000, 40]], "<i2", PixelPaddingValue=-2000, PixelPaddingRangeLimit=100),
        [-2000, 40],
    ),
    "in the unused bits": (
        stored(
            [[63536, 1064]], "<u2", BitsStored=12, HighBit=11, RescaleIntercept=-1024,
            PixelPaddingValue=63536,
        ),
        [-1000, 40],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("image", "expected"), PADDED.values(), ids=PADDED.keys())
def test_padding_becomes_air(tmp_path: Path, image: Any, expected: list[float]) -> None:
    assert read(image, tmp_path).hu[0, 0].tolist() == expected


def test_padding_written_in_the_other_signedness(tmp_path: Path) -> None:
    image = stored([[-2000, 40]], "<i2")
    image.add_new("PixelPaddingValue", "US", 63536)
    assert read(image, tmp_path).hu[0, 0].tolist() == [-1000, 40]


def test_ignored_padding_is_said(tmp_path: Path) -> None:
    series = read(stored([[0, -900]], "<i2", PixelPaddingValue=0), tmp_path)
    assert any("PixelPaddingValue means 0 HU, which is tissue" in note for note in series.notes)


def test_an_ignored_range_of_padding_is_said(tmp_path: Path) -> None:
    image = stored([[-2000, 40]], "<i2", PixelPaddingValue=-2000, PixelPaddingRangeLimit=100)
    notes = read(image, tmp_path).notes
    assert any("means -2000 to 100 HU, which is tissue" in note for note in notes)


def test_unused_bits_are_ignored_and_the_sign_is_extended(tmp_path: Path) -> None:
    # 12 bits stored: 0x0FFF is -1, and an old overlay sits in bit 15 of the second pixel.
    image = stored([[0x0FFF, 0x7028]], "<i2", BitsStored=12, HighBit=11)
    assert read(image, tmp_path).hu[0, 0].tolist() == [-1, 40]


@pytest.mark.parametrize("high", [15, 12])
def test_values_that_do_not_lie_in_the_lowest_bits_are_refused(tmp_path: Path, high: int) -> None:
    """40 and 1064 shifted up by four bits: dropping the bits above 12 would give other HU."""
    image = stored([[640, 17024]], "<u2", BitsStored=12, HighBit=high)
    with pytest.raises(StudyError, match=f"HighBit is {high}, expected 11 for 12 bits stored"):
        read(image, tmp_path)


@pytest.mark.parametrize(
    "keyword", ["SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "PixelRepresentation"]
)
def test_an_attribute_that_decoding_needs_is_named_if_it_is_missing(
    tmp_path: Path, keyword: str
) -> None:
    with pytest.raises(StudyError, match=f"{keyword} is missing"):
        read(ct_image(0, **{keyword: None}), tmp_path)


@pytest.mark.parametrize("count", [0, 17])
def test_a_number_of_stored_bits_that_cannot_be_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(StudyError, match="BitsStored is not within 1 to 16"):
        read(ct_image(0, BitsStored=count), tmp_path)


@pytest.mark.parametrize("high", [None, 10])
def test_no_high_bit_or_too_low_a_one_is_read(tmp_path: Path, high: int | None) -> None:
    image = stored([[40, 1064]], "<i2", BitsStored=12, HighBit=high)
    assert read(image, tmp_path).hu[0, 0].tolist() == [40, 1064]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=["implicit", "big endian", "deflated"],
)
def test_native_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    image = ct_image(0)
    if syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read(image, tmp_path).hu[0], pattern(0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["RLE", "JPEG 2000"])
def test_compressed_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    image = ct_image(0, pattern(0, 64, 48))
    image.compress(syntax, generate_instance_uid=False)
    series = read(image, tmp_path)
    np.testing.assert_array_equal(series.hu[0], pattern(0, 64, 48))
    assert series.notes == ()


@pytest.mark.parametrize(
    ("coding", "syntax", "off", "said"),
    [
        ("lossless", HTJ2KLossless, 0, ""),
        ("lossless", HTJ2KLosslessRPCL, 0, ""),
        ("lossy", HTJ2K, 1, "lossy compression (HTJ2K, unless reversible): HU may have"),
    ],
)
def test_high_throughput_jpeg_2000(
    tmp_path: Path, coding: str, syntax: Any, off: int, said: str
) -> None:
    """Codestreams of ``tests/golden/make_htj2k.py``."""
    golden = np.load(Path(__file__).parents[2] / "golden" / "htj2k.npz")
    image = ct_image(0, Rows=64, Columns=64)
    image.PixelData = encapsulate([golden[coding].tobytes()])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = syntax
    series = read(image, tmp_path)
    np.testing.assert_allclose(series.hu[0], golden["stored"].astype(int) - 1024, atol=off)
    assert " ".join(series.notes).startswith(said)
    assert bool(series.notes) == bool(said)


def jpeg(**tags: Any) -> Any:
    """8 bits, JPEG baseline: a transfer syntax that cannot do without loss."""
    stored = (np.arange(64 * 64).reshape(64, 64) % 200).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "JPEG", quality=60)
    image = ct_image(0, Rows=64, Columns=64, BitsAllocated=8, BitsStored=8, HighBit=7, **tags)
    image.PixelRepresentation = 0
    image.PixelData = encapsulate([stream.getvalue()])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return image


def test_loss_shows_in_the_transfer_syntax_where_the_header_is_silent(tmp_path: Path) -> None:
    series = read(jpeg(), tmp_path)
    (source,) = series.sources
    assert source.lossy is not None
    assert source.lossy.methods == ("ISO_10918_1",)
    (file,) = tmp_path.iterdir()
    assert source.lossy.ratios == (pytest.approx(64 * 64 / file.stat().st_size),)
    assert "lossy compression (JPEG): HU were changed by it" in series.notes


def test_what_the_header_tells_of_the_loss_goes_first(tmp_path: Path) -> None:
    told = {
        "LossyImageCompression": "01",
        "LossyImageCompressionMethod": ["ISO_15444_1", "ISO_10918_1"],
        "LossyImageCompressionRatio": ["7.5", "3"],
    }
    (source,) = read(jpeg(**told), tmp_path).sources
    assert source.lossy is not None
    assert source.lossy.methods == ("ISO_15444_1", "ISO_10918_1")
    assert source.lossy.ratios == (7.5, 3.0)
    (undone,) = read(ct_image(0, **told), tmp_path / "native").sources
    assert undone.lossy is not None
    assert undone.lossy.ratios == (7.5, 3.0)
    (silent,) = read(ct_image(0), tmp_path / "silent").sources
    assert silent.lossy is None


def test_a_ratio_that_is_no_number_is_not_taken(tmp_path: Path) -> None:
    image = ct_image(0, LossyImageCompression="01")
    image.add_new("LossyImageCompressionRatio", "LO", "ten")
    (source,) = read(image, tmp_path).sources
    assert source.lossy is not None
    assert source.lossy.ratios == ()
    assert source.lossy.methods == ()


def test_jpeg_2000_whose_sign_is_not_the_headers(tmp_path: Path) -> None:
    path = get_testdata_file("J2K_pixelrep_mismatch.dcm")  # 13 bits, signed, encoded as unsigned
    hu = read_study(str(path)).hu[0]
    assert (hu.dtype, hu.shape, hu.min(), hu.max()) == (np.int16, (512, 512), -2000, 1896)


def test_pydicoms_real_ct(tmp_path: Path) -> None:
    path = str(get_testdata_file("CT_small.dcm"))
    expected = pydicom.dcmread(path).pixel_array.astype(int) - 1024
    np.testing.assert_array_equal(read_study(path).hu[0], expected)


def _cut(path: Path, kept: int) -> Path:
    path.write_bytes(path.read_bytes()[:kept])
    return path


def test_native_pixels_cut_short_are_refused_by_name(tmp_path: Path) -> None:
    path = save(ct_image(0), tmp_path / "IM7")
    _cut(path, path.stat().st_size - 20)
    with pytest.raises(StudyError, match=r"IM7: .*cut short|IM7: .*damaged") as refusal:
        read_study(path)
    assert PATIENT not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)
    short = ct_image(0)
    short.PixelData = short.PixelData[:100]
    with pytest.raises(StudyError, match="cut short: 100 bytes, expected 240"):
        read(short, tmp_path)


@pytest.mark.parametrize("lost", [10, 300, 2000])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["RLE", "JPEG 2000"])
def test_compressed_pixels_cut_short_are_refused(tmp_path: Path, syntax: Any, lost: int) -> None:
    rng = np.random.default_rng(0)
    image = ct_image(0, rng.integers(-1000, 1000, (64, 64)).astype(np.int16))
    image.compress(syntax, generate_instance_uid=False)
    path = save(image, tmp_path / "IM0")
    _cut(path, path.stat().st_size - lost)
    with pytest.raises(StudyError, match=r"^IM0: "):
        read_study(path)


def test_no_pixels_at_all(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="IM0: has no pixel data"):
        read(ct_image(0, PixelData=None), tmp_path)


def test_a_codestream_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    image = ct_image(0, pattern(0, 64, 48))
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    image.Rows = 32
    with pytest.raises(StudyError, match="compressed image is 64 x 48, the header says 32 x 48"):
        read(image, tmp_path)


def test_codestreams() -> None:
    jpeg = bytes.fromhex("ffd8 ffe0 0004 0000 ffc3 000b 10 0200 0100 01 0111 00") + b"\xff\xd9\xff"
    assert codestream_size(jpeg) == (512, 256)
    assert codestream_problem(jpeg, 512, 256) == ""
    assert "cut short" in codestream_problem(jpeg[:-3], 512, 256)
    assert codestream_size(b"\xff\xd8\xff\xff\xff\xff") is None
    assert "no JPEG" in codestream_problem(b"BM123", 512, 256)


def test_rle_segments_are_added_up_before_decoding() -> None:
    header = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
    repeated, literal = b"\xfd\x07", b"\x01\x08\x09"  # four bytes, two bytes
    assert rle_adds_up(header + repeated + literal + b"\0", 6)
    assert not rle_adds_up(header + repeated + literal, 5)
    assert not rle_adds_up(header + repeated + literal[:-1], 6)
    assert not rle_adds_up(header[:60], 6)
    assert not rle_adds_up((16).to_bytes(4, "little") + header[4:] + repeated, 4)


def test_deflated_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = ct_image(0)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(image, tmp_path / "IM0")
    monkeypatch.setattr("samihs_runtime.study.headers.MAX_DEFLATED_BYTES", 500)
    with pytest.raises(StudyError, match="expands beyond"):
        read_study(path)


def test_a_series_beyond_the_pixel_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.MAX_PIXELS >= 2000 * 512 * 512
    monkeypatch.setattr("samihs_runtime.study.judging.MAX_PIXELS", 100)
    with pytest.raises(StudyError, match="120 pixels, the limit is 100"):
        read(ct_image(0), tmp_path)
