"""What can be asked of a phantom: types of bleeding, tissue labels, options."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class BleedType(IntEnum):
    """Values of the `bleeds` label maps: the five types that radiologists tell apart."""

    NONE = 0
    INTRAPARENCHYMAL = 1
    INTRAVENTRICULAR = 2
    SUBARACHNOID = 3
    SUBDURAL = 4
    EPIDURAL = 5


class Tissue(IntEnum):
    """Values of the `tissues` label maps. Blood is labelled BLOOD, its membranes MEMBRANE."""

    AIR = 0
    """Outside the head, sinuses, mastoid cells."""
    SCALP = 1
    """Skin, galea and connective tissue."""
    FAT = 2
    """Subcutaneous and orbital fat."""
    MUSCLE = 3
    """Muscle and other soft tissue of face and neck."""
    BONE = 4
    CSF = 5
    """Subarachnoid space: sulci, fissures, cisterns."""
    VENTRICLE = 6
    """CSF in the ventricles."""
    GREY = 7
    """Cortex and deep nuclei."""
    WHITE = 8
    CEREBELLUM = 9
    BRAINSTEM = 10
    DURA = 11
    """Falx and tentorium."""
    VESSEL = 12
    """Arteries, veins, venous sinuses."""
    CALCIFICATION = 13
    EDEMA = 14
    INFARCT = 15
    TUMOUR = 16
    METAL = 17
    CATHETER = 18
    EYE = 19
    LENS = 20
    BLOOD = 21
    """Intracranial blood of any age; its type is in `bleeds`."""
    MEMBRANE = 22
    """Septa and membranes of a chronic subdural collection: part of the collection in `bleeds`."""
    SCALP_HEMATOMA = 23
    """Blood outside the skull: not an intracranial bleed, so 0 in `bleeds`."""
    TABLE = 24
    """Table and head holder."""


@dataclass(frozen=True)
class PhantomOptions:
    """What is fixed about a phantom; everything left at None is drawn from documented ranges."""

    matrix: int = 512
    """Rows and columns, pixels."""
    pixel_spacing_mm: float | None = None
    """Pixel size, mm; drawn from 0.40 to 0.50 for 512 pixels (other matrices: same field)."""
    slice_thickness_mm: float | None = None
    """Slice thickness, mm; drawn from 1 to 7, mostly 4 to 5."""
    slice_spacing_mm: float | None = None
    """Distance between slices along their normal, mm; the thickness when None."""
    slices: int | None = None
    """Number of slices of a study; as many as the head needs when None."""
    bleeds: tuple[BleedType, ...] | None = None
    """Exactly these types, one bleed of each (a type named twice comes twice); () for none;
    None for a random mix, a share of it without bleeding."""
    volume_range_ml: tuple[float, float] | None = None
    """Smallest and largest volume of each bleed, mL; None for each type's own range."""
    age_years: float | None = None
    """Governs atrophy, calcification and white matter changes; drawn from 18 to 95."""
    tilt_deg: float | None = None
    """Gantry tilt, degrees; drawn: mostly 0, else 5 to 22."""
    noise_hu: float | None = None
    """Standard deviation of the noise in the brain, HU; drawn: mostly 2 to 8, up to 12 in thin
    slices, and 1.8 times as much with a sharp kernel. 0 for no noise."""
    kernel: str | None = None
    """"soft", "standard" or "sharp"."""
    motion: bool | None = None
    """Mild patient motion during a slice; drawn, seldom."""
    artefacts: bool = True
    """Beam hardening, streaks, cupping, and the blur of off-focal radiation."""
    distractors: bool = True
    """Calcifications, infarcts, tumours, metal, shunts, scalp hematoma: drawn if True."""
    bone_detail: bool = True
    """Sutures, and fractures with the air they let in. They are drawn from random streams of their
    own: False gives the same head with an even, intact skull."""
    crossing_probability: float = 0.75
    """generate_slice only: the share of slices placed to cross a bleed, where there is one."""

    def __post_init__(self) -> None:
        _check_positive("matrix", self.matrix)
        for name in ("pixel_spacing_mm", "slice_thickness_mm", "slice_spacing_mm", "slices"):
            _check_positive(name, getattr(self, name))
        if self.volume_range_ml is not None:
            low, high = self.volume_range_ml
            if not 0 < low <= high:
                raise ValueError(f"volume_range_ml: {low} to {high}; expected 0 < low <= high")
        if self.kernel not in (None, "soft", "standard", "sharp"):
            raise ValueError(f"kernel: {self.kernel!r}; expected soft, standard or sharp")
        if self.bleeds is not None and BleedType.NONE in self.bleeds:
            raise ValueError("bleeds: NONE is not a bleed; ask for none with an empty tuple")
        if self.noise_hu is not None and self.noise_hu < 0:
            raise ValueError(f"noise_hu: {self.noise_hu}; expected 0 or more")
        if not 0 <= self.crossing_probability <= 1:
            raise ValueError(f"crossing_probability: {self.crossing_probability}; expected 0 to 1")
        if self.tilt_deg is not None and not -30 <= self.tilt_deg <= 30:
            raise ValueError(f"tilt_deg: {self.tilt_deg}; gantries tilt between -30 and 30")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{name}: {value}; expected more than 0")
