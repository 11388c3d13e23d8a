"""The sidecar of a TensorRT engine: what it was built from, by what, and for which device.

``<bundle>/engines/<name>.engine`` has a ``<name>.json`` next to it. The runtime deserialises an
engine only if its own hash, its source graph, the TensorRT flavour and version, and the GPU's
compute capability all match.

This detects damaged or outdated engines and those of another machine, but no forgery: an engine is
machine code, and its hash is in this sidecar, not in the bundle's manifest. Anyone who can write to
the folder can change both. ``engines/`` must be trusted like a program (``docs/gpu.md``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.backends.contract import DECODER, ENCODER
from samihs_runtime.bundle import sha256_of
from samihs_runtime.errors import BackendError

FLAVOURS = ("tensorrt", "tensorrt_rtx")
"""Python modules, in order of preference."""

REFITTABLE = "refittable"
"""Flag of an engine whose adapters' weights can be exchanged."""
VERSION_COMPATIBLE = "version_compatible"
"""Flag of an engine that later versions of the same major can load as well (it contains its own
runtime)."""
AMPERE_PLUS = "ampere_plus"
"""Flag of an engine for every GPU of compute capability 8.0 and later."""
_OPTIONAL = {"flags", "build_seconds"}
"""Fields that sidecars of older versions lack."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineSidecar:
    """What ``<name>.json`` states about ``<name>.engine``."""

    part: str
    """``encoder`` or ``decoder``."""
    engine_sha256: str
    onnx_sha256: str
    """Of the bundle's graph that the engine was built from, including external weights
    (``graph_identity``)."""
    flavour: str
    """``tensorrt`` or ``tensorrt_rtx``: their engines are not interchangeable."""
    version: str
    """Full version of the package that built it, the only one that an engine fits unless it has
    :data:`VERSION_COMPATIBLE`."""
    compute_capability: tuple[str, ...]
    """Targets, such as ``("8.9",)``; TensorRT-RTX may build for several."""
    precision: str
    profiles: tuple[Mapping[str, tuple[Shape, Shape, Shape]], ...]
    """One per optimization profile: input name -> (min, opt, max) shape."""
    flags: tuple[str, ...] = ()
    """Builder flags beyond a plain build, such as :data:`REFITTABLE`. Two of them make the engine
    fit more versions or GPUs."""
    build_seconds: float | None = None
    """Duration of the build; None in sidecars of older versions."""

    @property
    def refittable(self) -> bool:
        """Whether the weights that adapters change can be exchanged after loading."""
        return REFITTABLE in self.flags

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a sidecar.

        Raises:
            BackendError: unreadable, or a field is missing, unknown or of the wrong kind.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            known = {each.name for each in dataclasses.fields(cls)}
            if not isinstance(raw, dict) or set(raw) | _OPTIONAL != known:
                raise ValueError(f"expected the fields {', '.join(sorted(known))}")
            raw["compute_capability"] = tuple(str(each) for each in raw["compute_capability"])
            raw["profiles"] = tuple(_profile(each) for each in raw["profiles"])
            raw["flags"] = tuple(str(each) for each in raw.get("flags", ()))
            sidecar = cls(**raw)
            sidecar._check()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BackendError(
                f"engine sidecar {path} cannot be used: {error}; build the engines again"
            ) from error
        return sidecar

    def write(self, path: Path) -> None:
        """Write ``<name>.json``, whole or not at all."""
        atomic_write(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def mismatch(
        self, engine: Path, onnx_sha256: str, flavour: str, version: str, compute_capability: str
    ) -> str | None:
        """Why the engine must not be loaded here, in words; None if everything matches.

        Args:
            engine: the engine file, which is hashed last, since that takes longest.
            onnx_sha256: of the bundle's graph, as returned by :func:`graph_sha256`.
            flavour: the installed module.
            version: its version.
            compute_capability: of the GPU at hand, such as ``8.9``.
        """
        if self.flavour != flavour:
            return f"built by {self.flavour}, {flavour} is installed"
        if not self._serves_version(version):
            return f"built by {flavour} {self.version}, {version} is installed"
        if not self._serves_gpu(compute_capability):
            targets = ", ".join(self.compute_capability)
            return f"built for compute capability {targets}, this GPU has {compute_capability}"
        if self.onnx_sha256 != onnx_sha256:
            return "built from another graph than this bundle's"
        try:
            if not engine.is_file() or sha256_of(engine) != self.engine_sha256:
                return "the engine file is missing, truncated or changed"
        except OSError as error:  # a folder without permission, a failing disk
            return f"the engine file cannot be read ({error.strerror or error})"
        return None

    def _serves_version(self, version: str) -> bool:
        if self.version == version or VERSION_COMPATIBLE not in self.flags:
            return self.version == version
        built, here = _numbers(self.version), _numbers(version)
        return built[:1] == here[:1] and built <= here

    def _serves_gpu(self, compute_capability: str) -> bool:
        everywhere = AMPERE_PLUS in self.flags and _numbers(compute_capability) >= (8, 0)
        return everywhere or compute_capability in self.compute_capability

    def _check(self) -> None:
        for key in ("part", "engine_sha256", "onnx_sha256", "flavour", "version", "precision"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"{key} is {getattr(self, key)!r}, expected a text")
        if self.part not in ("encoder", "decoder"):
            raise ValueError(f"part is {self.part!r}, expected encoder or decoder")
        if self.flavour not in FLAVOURS:
            raise ValueError(f"flavour is {self.flavour!r}, expected one of {', '.join(FLAVOURS)}")
        if not self.profiles:
            raise ValueError("it names no optimization profile")
        inputs = next(each.inputs for each in (ENCODER, DECODER) if each.part == self.part)
        for profile in self.profiles:
            if profile.keys() != inputs.keys():
                raise ValueError(
                    f"a profile has the inputs {', '.join(profile) or 'none'}, expected "
                    f"{', '.join(inputs)}"
                )


def _numbers(version: str) -> tuple[int, ...]:
    """``10.13.0.35`` -> (10, 13, 0, 35); stops at the first part that is not a number."""
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def _profile(raw: Mapping[str, Any]) -> dict[str, tuple[Shape, Shape, Shape]]:
    profile = {}
    for name, shapes in raw.items():
        low, best, high = (tuple(int(size) for size in shape) for shape in shapes)
        profile[name] = (low, best, high)
    return profile
