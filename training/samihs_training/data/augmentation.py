"""Augmentation of a slice and its mask: geometric changes by MONAI, and changes of the HU.

Windowing comes later, in the model, as at inference: everything here stays in Hounsfield units.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import UsageError
from samihs_training.data.clicks import Mask

Slice = NDArray[np.float32]

GAMMA_RANGE_HU = (-20.0, 120.0)
"""Gamma changes the values between; fluid and clotted blood lie well inside, air and bone stay."""


@dataclass(frozen=True, eq=True)
class Augmentation:
    """Probabilities 0 to 1 and sizes; the defaults keep a head looking like a head.

    Called with a slice [rows, columns] of square pixels in HU, its mask and a generator; returns
    both, changed alike. The same generator state gives the same result.
    """

    mirror: float = 0.5
    """Probability of exchanging left and right."""
    upside_down: float = 0.1
    """Probability of reversing the rows, as for prone patients."""
    affine: float = 0.5
    """Probability of rotation and scaling."""
    degrees: float = 15.0
    scale: float = 0.1
    """Largest change, as a share."""
    noise: float = 0.3
    """Probability of Gaussian noise."""
    noise_hu: float = 4.0
    """Largest standard deviation."""
    contrast: float = 0.3
    """Probability of a gain and an offset: scanners and their calibration differ."""
    gain: float = 0.05
    offset_hu: float = 4.0
    gamma: float = 0.3
    """Probability of a gamma curve."""
    log_gamma: float = 0.25
    """Gamma is the exponential of a number between minus and plus this."""
    window_hu: float = 5.0
    """Standard deviation of each end of the window."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value < 0:
                raise UsageError(f"augmentation {each.name} {value}: expected 0 or more")
        for name in ("mirror", "upside_down", "affine", "noise", "contrast", "gamma"):
            if getattr(self, name) > 1:
                raise UsageError(f"augmentation {name} {getattr(self, name)}: expected 0 to 1")

    def __call__(self, hu: Slice, mask: Mask, rng: np.random.Generator) -> tuple[Slice, Mask]:
        pipeline = self._monai
        pipeline.set_random_state(seed=int(rng.integers(2**31)))
        done = pipeline({"hu": hu[None].astype(np.float32), "mask": mask[None].astype(np.float32)})
        image = np.asarray(done["hu"])[0]
        if rng.random() < self.gamma:
            image = bent(image, float(np.exp(rng.uniform(-self.log_gamma, self.log_gamma))))
        moved = np.ascontiguousarray(np.asarray(done["mask"])[0] > 0.5)
        return np.ascontiguousarray(image, np.float32), moved

    def window(self, window: tuple[float, float], rng: np.random.Generator) -> tuple[float, float]:
        """The window with noise on both ends, at least half as wide as it was."""
        low, high = (float(end + rng.normal(0, self.window_hu)) for end in window)
        return low, max(high, low + (window[1] - window[0]) / 2)

    @cached_property
    def _monai(self) -> Any:
        from monai import transforms as t  # slow to import

        both, modes = ["hu", "mask"], ("bilinear", "nearest")
        share = (-self.scale, self.scale)
        return t.Compose(
            [
                t.RandFlipd(both, prob=self.mirror, spatial_axis=1),
                t.RandFlipd(both, prob=self.upside_down, spatial_axis=0),
                t.RandAffined(
                    both,
                    prob=self.affine,
                    rotate_range=float(np.deg2rad(self.degrees)),
                    scale_range=(share, share),
                    mode=modes,
                    padding_mode="border",
                ),
                t.RandScaleIntensityd("hu", factors=self.gain, prob=self.contrast),
                t.RandShiftIntensityd("hu", offsets=self.offset_hu, prob=self.contrast),
                t.RandGaussianNoised("hu", prob=self.noise, std=self.noise_hu),
            ]
        )


def bent(hu: Slice, gamma: float) -> Slice:
    """Apply gamma within :data:`GAMMA_RANGE_HU`; continuous, and nothing changes outside."""
    low, high = GAMMA_RANGE_HU
    share = np.clip((hu - low) / (high - low), 0, 1)
    curve = low + (high - low) * share**gamma
    return np.where((hu > low) & (hu < high), curve, hu).astype(np.float32)
