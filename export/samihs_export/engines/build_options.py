"""How engines are built: profile sizes, timing cache, compatibility."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samihs_runtime.atomic_file import atomic_path
from samihs_runtime.backends.sidecar import AMPERE_PLUS, REFITTABLE, VERSION_COMPATIBLE
from samihs_runtime.errors import ExportError, OutputError

HARDWARE = (AMPERE_PLUS, "same_compute_capability")
"""TensorRT's hardware compatibility levels, beside none."""


@dataclass(frozen=True)
class ProfileSizes:
    """(min, opt, max) of each dynamic size. Engines are tuned for one click on one slice."""

    encode_batch: tuple[int, int, int] = (1, 1, 8)
    decode_batch: tuple[int, int, int] = (1, 1, 16)
    points: tuple[int, int, int] = (1, 2, 32)
    """Points as the decoder takes them: one click counts as two, with its "not a point"."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build."""

    sizes: ProfileSizes = ProfileSizes()
    timing_cache: Path | None = None
    """Read if it exists, written after each build: kernels are not timed twice."""
    version_compatible: bool = False
    """Engines that later versions of TensorRT also load; somewhat slower."""
    hardware_compatible: str | None = None
    """One of :data:`HARDWARE`: engines for more GPUs than the target; somewhat slower."""

    refittable: bool = False
    """Engines in which the runtime can exchange the adapters' weights; somewhat slower."""

    def __post_init__(self) -> None:
        if self.hardware_compatible not in (None, *HARDWARE):
            raise ExportError(
                f"unknown hardware compatibility {self.hardware_compatible!r}: "
                f"there are {', '.join(HARDWARE)}"
            )

    def apply(self, trt: Any, config: Any) -> None:
        """Set the flags and timing cache of a builder configuration.

        Raises:
            ExportError: the installed TensorRT has no such option, or rejects the cache.
        """
        if self.version_compatible:
            config.set_flag(_member(trt, "BuilderFlag", "VERSION_COMPATIBLE"))
        if self.refittable:
            config.set_flag(_member(trt, "BuilderFlag", "REFIT_INDIVIDUAL"))
        if self.hardware_compatible:
            level = _member(trt, "HardwareCompatibilityLevel", self.hardware_compatible.upper())
            config.hardware_compatibility_level = level
            if config.hardware_compatibility_level != level:  # TensorRT-RTX silently ignores it
                raise ExportError(
                    f"{trt.__name__} ignores hardware compatibility: name each target instead, "
                    "--target sm80,sm89"
                )
        if self.timing_cache is not None:
            self._give_timings(trt, config, self.timing_cache)

    def _give_timings(self, trt: Any, config: Any, path: Path) -> None:
        if trt.__name__ == "tensorrt_rtx":
            raise ExportError(
                "tensorrt_rtx times no kernels while it builds: leave --timing-cache out, or use "
                "--flavour tensorrt"
            )
        if not config.set_timing_cache(config.create_timing_cache(_read(path)), False):
            raise ExportError(
                f"{trt.__name__} refuses the timing cache {path}: it belongs to another GPU or "
                "version; remove it, or name another with --timing-cache"
            )

    def keep_timings(self, config: Any) -> None:
        """Save the timing cache, under a temporary name first. Raises OutputError."""
        if self.timing_cache is None:
            return
        path, cache = self.timing_cache, config.get_timing_cache()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                partial.write_bytes(memoryview(cache.serialize()))
        except OSError as error:
            raise OutputError(f"cannot write the timing cache {path}: {error.strerror}") from error

    def flags(self) -> list[str]:
        """The options that differ from a plain build, for the engine's sidecar and build record."""
        chosen = {
            VERSION_COMPATIBLE: self.version_compatible,
            REFITTABLE: self.refittable,
            self.hardware_compatible: self.hardware_compatible,
        }
        return [name for name, given in chosen.items() if name and given]


def _member(trt: Any, enumeration: str, name: str) -> Any:
    members = getattr(getattr(trt, enumeration, None), "__members__", {})
    if name not in members:
        raise ExportError(
            f"TensorRT {trt.__version__} has no {name.lower()} ({enumeration}): it has "
            f"{', '.join(each.lower() for each in members) or 'none'}"
        )
    return members[name]


def _read(path: Path) -> bytes:
    if not path.exists():
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read the timing cache {path}: {error.strerror}") from error
