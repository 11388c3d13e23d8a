"""8-bit pictures of windowed slices, as public archives and the SAMIHS authors' code keep them.

``images/*.png`` or ``.jpg`` and a mask of the same name in ``masks/``, in folders or not, and
beside them ``pictures.toml``, which gives what no picture tells::

    level = 40       # HU, the window's middle
    width = 120      # HU: 0 is level - width / 2, 255 is level + width / 2
    pixel_mm = 0.45  # side of a pixel
    slice_mm = 5     # extent of a slice along the normal

What lies outside the window is lost: air and bone are as dark and as bright as its ends.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError
from samihs_training.data.cases.case import CaseFiles, Volume
from samihs_training.data.folds import patient_of

SCALE_FILE = "pictures.toml"
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
EXACT_FORMATS = ("PNG", "BMP", "TIFF")
"""Pillow's names of the formats that keep every value."""
COLOUR_BEYOND = 24
"""Grey values by which the channels of a JPEG may differ; compression alone causes a few."""


@dataclass(frozen=True)
class Scale:
    """What a picture's numbers mean: the fields of ``pictures.toml``."""

    level: float
    """HU, of the window's middle."""
    width: float
    """HU, of the window."""
    pixel_mm: float
    slice_mm: float

    def hu(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """HU of grey values, clipped as the window did it."""
        low = self.level - self.width / 2
        return np.asarray(low + grey.astype(np.float32) * (self.width / 255), np.float32)


@dataclass(frozen=True)
class PictureCase(CaseFiles):
    """The slices of one patient, by number."""

    pictures: tuple[tuple[Path | None, Path | None], ...] = ()
    """Slice and mask; None where one is missing."""
    scale_file: Path = Path(SCALE_FILE)

    def files(self) -> list[Path]:
        """See :meth:`CaseFiles.files`."""
        return [self.scale_file, *(path for pair in self.pictures for path in pair if path)]


def find_picture_cases(root: Path) -> list[CaseFiles]:
    """A case for each patient; none if ``root`` has neither such folders nor ``pictures.toml``.

    The patient is what comes before the slice's number (``049_12.png``), or the folder of pictures
    whose names say the slice only (``049/12.png``, ``049/slice_12.png``). If such pictures lie
    directly in ``images/``, their patients are not known: they stay one case, so that no fold can
    separate slices of one patient.

    Raises:
        DataError: pictures and masks without ``pictures.toml``, or two of one name in a folder.
    """
    scale_file, images, masks = root / SCALE_FILE, root / "images", root / "masks"
    slices, labels = _pictures(images), _pictures(masks)
    if not scale_file.is_file():
        if slices and labels:
            raise DataError(
                f"{scale_file}: missing; images/ and masks/ hold pictures, which do not say what "
                "their grey values mean: docs/data.md shows the file"
            )
        return []
    of_patient: dict[str, list[str]] = defaultdict(list)
    for name in sorted(slices.keys() | labels.keys(), key=_by_number):
        of_patient[_patient(name)].append(name)
    return [
        PictureCase(
            patient, images, masks, "pictures", scale_file=scale_file,
            pictures=tuple((slices.get(name), labels.get(name)) for name in names),
        )
        for patient, names in of_patient.items()
    ]  # fmt: skip


def read_picture_case(case: PictureCase) -> Volume:
    """The slices of one patient in the order of their numbers.

    Raises:
        DataError: ``pictures.toml`` or a picture is unreadable, a mask or a slice is missing, a
            picture is not 8-bit grey, or sizes differ; names the file.
    """
    scale = read_scale(case.scale_file)
    hu: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    for image, mask in case.pictures:
        if image is None or mask is None:
            there, lacking = (mask, "slice") if image is None else (image, "mask")
            raise DataError(f"{there}: no {lacking} of that name; where nothing bleeds it is black")
        grey, marked = _grey(image), _marked(mask)
        first = hu[0].shape if hu else grey.shape
        for path, picture in ((image, grey), (mask, marked)):
            if picture.shape != first:
                raise DataError(
                    f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, expected {first[1]} "
                    f"x {first[0]} as of {case.name}'s other pictures"
                )
        hu.append(scale.hu(grey))
        labels.append(marked.astype(np.float32))
    spacing = (scale.pixel_mm, scale.pixel_mm)
    return Volume(np.stack(hu), np.stack(labels), spacing, np.full(len(hu), scale.slice_mm))


def read_scale(path: Path) -> Scale:
    """Read a ``pictures.toml``.

    Raises:
        DataError: unreadable, or a field is missing, unknown or no number above 0.
    """
    names = [each.name for each in fields(Scale)]
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        if given.keys() != set(names):
            raise ValueError(f"it has {', '.join(given) or 'nothing'}")
        scale = Scale(**{name: float(value) for name, value in given.items()})
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}; expected the numbers {', '.join(names)}") from error
    sizes = (scale.width, scale.pixel_mm, scale.slice_mm)
    if not all(np.isfinite((scale.level, *sizes))) or min(sizes) <= 0:
        raise DataError(f"{path}: width, pixel_mm and slice_mm must be above 0, all finite")
    return scale


def _pictures(folder: Path) -> dict[str, Path]:
    """Path below the folder, without ending -> path; hidden files are ignored."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    return found


def _by_number(name: str) -> tuple[str, int, str]:
    """Sort key that puts slices in their order: 9 before 10."""
    digits = len(name) - len(name.rstrip("0123456789"))
    head, number = name[: len(name) - digits], name[len(name) - digits :]
    return head, int(number or 0), name


def _patient(name: str) -> str:
    try:
        return patient_of(name)
    except ValueError:
        return "all"


def _grey(path: Path) -> NDArray[np.uint8]:
    """[rows, columns] of a slice."""
    channels, _ = _channels(path)
    if int(np.ptp(channels, axis=2).max(initial=0)) > COLOUR_BEYOND:
        raise DataError(f"{path}: a coloured picture; expected a grey slice")
    return np.ascontiguousarray(channels[:, :, 1])


def _marked(path: Path) -> NDArray[np.bool_]:
    """[rows, columns] of a mask: what is not black, in whatever colour it was drawn."""
    channels, exact = _channels(path)
    brightest = channels.max(2)
    # What a JPEG makes of a mark's edges lies between it and black; elsewhere any value is a mark,
    # as a mask may number the types of bleeding.
    return np.asarray(brightest > (0 if exact else brightest.max(initial=0) / 2))


def _channels(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """[rows, columns, 3] of an 8-bit picture, and whether its format keeps values exactly."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode not in ("1", "L", "P", "RGB", "RGBA"):
                raise DataError(f"{path}: mode {opened.mode}; expected 8-bit grey")
            return np.asarray(opened.convert("RGB")), opened.format in EXACT_FORMATS
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not readable as a picture ({error})") from error
