"""A picture of many phantom slices, with their bleeds outlined below each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from .arrays import Array
from .options import BleedType, PhantomOptions
from .study import generate_slice

LEVEL_HU, WIDTH_HU = 40.0, 100.0
GREY_STEP = 5  # grey values per palette entry: 2 HU
_FIRST_COLOUR = 255 // GREY_STEP + 1
COLOURS = {  # RGB, as the segments of the written SEG
    BleedType.INTRAPARENCHYMAL: (255, 80, 80),
    BleedType.INTRAVENTRICULAR: (90, 160, 255),
    BleedType.SUBARACHNOID: (255, 220, 60),
    BleedType.SUBDURAL: (80, 220, 120),
    BleedType.EPIDURAL: (240, 110, 240),
}
_SHOWN = (  # type and seed of each tile, chosen to show much
    (BleedType.INTRAPARENCHYMAL, 56),
    (BleedType.INTRAVENTRICULAR, 64),
    (BleedType.SUBARACHNOID, 74),
    (BleedType.SUBDURAL, 83),
    (BleedType.EPIDURAL, 98),
    (BleedType.INTRAPARENCHYMAL, 58),
    (BleedType.INTRAVENTRICULAR, 66),
    (BleedType.SUBARACHNOID, 72),
    (BleedType.SUBDURAL, 84),
    (BleedType.EPIDURAL, 93),
)


def window(hu: Array, level: float = LEVEL_HU, width: float = WIDTH_HU) -> Array:
    """Grey values 0 to 255 of HU shown in a window, uint8, same shape."""
    return np.asarray(np.clip((hu - (level - width / 2)) / width * 255, 0, 255).astype(np.uint8))


def write_contact_sheet(path: Path, tile: int = 256) -> None:
    """Ten slices, two of each type, plain above and outlined below, as a PNG of 5 x 4 tiles."""
    from PIL import Image

    plain, marked = [], []
    for kind, seed in _SHOWN:
        options = PhantomOptions(bleeds=(kind,), crossing_probability=1.0, tilt_deg=0.0)
        sample = generate_slice(seed, options)
        small = Image.fromarray(window(sample.hu)).resize((tile, tile), Image.Resampling.LANCZOS)
        grey = np.asarray(small) // GREY_STEP
        mask = np.asarray(
            Image.fromarray(sample.bleeds).resize((tile, tile), Image.Resampling.NEAREST)
        )
        plain.append(grey)
        marked.append(_outlined(grey, mask))
    rows = []
    for start in (0, 5):
        rows += [np.hstack(plain[start : start + 5]), np.hstack(marked[start : start + 5])]
    # A palette of few greys, whose steps are below the noise, keeps the file small.
    picture = Image.fromarray(np.vstack(rows).astype(np.uint8))
    greys = [level * GREY_STEP for level in range(_FIRST_COLOUR) for _ in range(3)]
    picture.putpalette(greys + [value for colour in COLOURS.values() for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def _outlined(grey: Array, bleeds: Array) -> Array:
    """Palette indices with a line just outside each bleed in its type's colour."""
    picture = grey.copy()
    for number, kind in enumerate(COLOURS):
        mask = bleeds == kind
        picture[ndimage.binary_dilation(mask) & ~mask] = _FIRST_COLOUR + number
    return picture
