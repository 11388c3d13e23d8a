"""Which packages are installed, and which of them get in each other's way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

BASE = ("numpy", "scipy", "pydicom", "highdicom", "nibabel", "click", "rich")
ACCELERATION = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu12-libs",
    "tensorrt-cu13",
    "tensorrt-cu13-libs",
    "tensorrt-rtx",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "cuda-bindings",
    "pycuda",
)
_CUDA = re.compile(r"-cu(\d+)")


@dataclass(frozen=True)
class Conflict:
    """Two things that do not go together."""

    problem: str
    mend: str
    """The command, or what to install."""


def installed(names: tuple[str, ...] = (*BASE, *ACCELERATION)) -> dict[str, str]:
    """Name -> version of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def conflicts(packages: Mapping[str, str], driver_cuda: tuple[int, int] | None) -> list[Conflict]:
    """What will not work together, by package names and versions alone.

    Args:
        packages: name -> version, as :func:`installed` gives them.
        driver_cuda: newest CUDA the driver serves, None without a driver.
    """
    found = [
        _both_onnxruntimes(packages),
        _stub_tensorrt(packages),
        _mixed_tensorrt(packages),
        _mixed_cuda(packages),
        _old_driver(packages, driver_cuda),
        _no_device_layer(packages),
    ]
    return [each for each in found if each is not None]


def _both_onnxruntimes(packages: Mapping[str, str]) -> Conflict | None:
    if not {"onnxruntime", "onnxruntime-gpu"} <= set(packages):
        return None
    return Conflict(
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'samihs[gpu]'",
    )


def _stub_tensorrt(packages: Mapping[str, str]) -> Conflict | None:
    libraries = [name for name in packages if re.fullmatch(r"tensorrt-cu\d+-libs", name)]
    if "tensorrt" not in packages or libraries:
        return None
    return Conflict(
        f"tensorrt {packages['tensorrt']} is PyPI's stub: its libraries are not installed",
        "pip install 'samihs[tensorrt]' --extra-index-url https://pypi.nvidia.com",
    )


def _mixed_tensorrt(packages: Mapping[str, str]) -> Conflict | None:
    family = {
        name: version
        for name, version in packages.items()
        if name.startswith("tensorrt") and "rtx" not in name
    }
    if len({version.split(".")[0] for version in family.values()}) < 2:
        return None
    words = ", ".join(f"{name} {version}" for name, version in family.items())
    return Conflict(
        f"TensorRT packages of different major versions: {words}",
        f"pip uninstall -y {' '.join(family)} && pip install 'samihs[tensorrt]' "
        "--extra-index-url https://pypi.nvidia.com",
    )


def _mixed_cuda(packages: Mapping[str, str]) -> Conflict | None:
    built = {name: match.group(1) for name in packages if (match := _CUDA.search(name))}
    if "cuda-bindings" in packages:
        built["cuda-bindings"] = packages["cuda-bindings"].split(".")[0]
    if len(set(built.values())) < 2:
        return None
    words = ", ".join(f"{name} (CUDA {version})" for name, version in built.items())
    old = [name for name, version in built.items() if version != max(built.values(), key=int)]
    return Conflict(
        f"packages for different CUDA versions: {words}",
        f"pip uninstall -y {' '.join(old)} && pip install 'samihs[gpu]'",
    )


def _old_driver(
    packages: Mapping[str, str], driver_cuda: tuple[int, int] | None
) -> Conflict | None:
    wanted = {name: int(match.group(1)) for name in packages if (match := _CUDA.search(name))}
    if driver_cuda is None or not wanted or max(wanted.values()) <= driver_cuda[0]:
        return None
    name = max(wanted, key=lambda each: wanted[each])
    return Conflict(
        f"{name} wants CUDA {wanted[name]}, the driver serves CUDA "
        f"{driver_cuda[0]}.{driver_cuda[1]} at most",
        "install a newer NVIDIA driver",
    )


def _no_device_layer(packages: Mapping[str, str]) -> Conflict | None:
    has_tensorrt = any(name.startswith("tensorrt") for name in packages)
    if not has_tensorrt or {"pycuda", "cuda-python", "cuda-bindings"} & set(packages):
        return None
    return Conflict(
        "TensorRT is installed without cuda-python or pycuda, one of which it is driven through",
        "pip install cuda-python",
    )
