"""Which packages are installed, and which of them conflict."""

from __future__ import annotations

import hashlib
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
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
COMPUTING = ("samihs", "numpy", "scipy", *ACCELERATION)
"""All packages that an embedding's values depend on."""
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT-RTX 1.7 builds for (its ``ComputeCapability``; not 9.0)."""
INSTALL = {
    # PyPI has only a stub of it, which fetches the libraries from NVIDIA's own index.
    "tensorrt": "pip install 'samihs[tensorrt]' --extra-index-url https://pypi.nvidia.com",
    "tensorrt_rtx": "pip install 'samihs[gpu]'",
}
"""Module of a TensorRT flavour -> the command that installs it."""
_CUDA = re.compile(r"-cu(\d+)")
_CUDNN = re.compile(r"nvidia-cudnn-cu(\d+)")
_ONNXRUNTIME_CUDA = ((1, 19), (1, 22), 12), ((1, 31), (99, 0), 13)
"""(first, last, CUDA): PyPI's onnxruntime-gpu versions known to be built for that CUDA version;
nothing is claimed for those in between. Sources: onnxruntime.ai's table of the CUDA provider for
12; the package itself for 13."""


@dataclass(frozen=True)
class Conflict:
    """Two things that do not work together."""

    problem: str
    mend: str
    """The command that fixes it, or what to install."""


def installed(names: tuple[str, ...] = (*BASE, *ACCELERATION)) -> dict[str, str]:
    """Name -> version of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def software() -> str:
    """8 hexadecimal digits that hash the versions of all computing packages, since other versions
    may give other values."""
    told = "|".join(f"{name} {version}" for name, version in installed(COMPUTING).items())
    return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()


def conflicts(packages: Mapping[str, str], driver_cuda: tuple[int, int] | None) -> list[Conflict]:
    """What will not work together, judged by package names and versions alone.

    Args:
        packages: name -> version, as :func:`installed` returns them.
        driver_cuda: newest CUDA version that the driver supports; None without a driver.
    """
    found = [
        _both_onnxruntimes(packages),
        _stub_tensorrt(packages),
        _mixed_tensorrt(packages),
        _mixed_cuda(packages),
        _onnxruntime_for_other_cuda(packages),
        _old_driver(packages, driver_cuda),
        _no_device_layer(packages),
    ]
    return [each for each in found if each is not None]


def unserved_gpu(packages: Mapping[str, str], compute_capability: str) -> Conflict | None:
    """A conflict if the only TensorRT flavour installed cannot build for this GPU.

    Args:
        packages: name -> version, as :func:`installed` returns them.
        compute_capability: of the GPU, such as ``9.0``.
    """
    has_rtx = any(name.startswith("tensorrt-rtx") for name in packages)
    if not has_rtx or "tensorrt" in packages or compute_capability in RTX_CAPABILITIES:
        return None
    return Conflict(
        f"TensorRT-RTX builds no engine for compute capability {compute_capability}, only for "
        f"{', '.join(RTX_CAPABILITIES)}",
        f"{INSTALL['tensorrt']}, or --backend cuda",
    )


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
        INSTALL["tensorrt"],
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
        f"pip uninstall -y {' '.join(family)} && {INSTALL['tensorrt']}",
    )


def _mixed_cuda(packages: Mapping[str, str]) -> Conflict | None:
    built = {
        name: match.group(1)
        for name in packages
        if (match := _CUDA.search(name)) and not _CUDNN.fullmatch(name)
    }
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


def _onnxruntime_for_other_cuda(packages: Mapping[str, str]) -> Conflict | None:
    """onnxruntime-gpu loads cuBLAS and cuDNN of one CUDA; NVIDIA's wheels may bring another's."""
    version = packages.get("onnxruntime-gpu")
    brought = {name: int(match.group(1)) for name in packages if (match := _CUDNN.fullmatch(name))}
    if version is None or not brought:
        return None
    wanted = _onnxruntime_cuda(version)
    if wanted is None or wanted in brought.values():
        return None
    words = ", ".join(f"{name} (CUDA {cuda})" for name, cuda in brought.items())
    return Conflict(
        f"onnxruntime-gpu {version} loads CUDA {wanted}'s libraries, installed are {words}",
        f"pip uninstall -y {' '.join(brought)} && pip install nvidia-cudnn-cu{wanted}",
    )


def _onnxruntime_cuda(version: str) -> int | None:
    """Major CUDA version that PyPI's onnxruntime-gpu is built for, if known."""
    major, minor = (int(part) for part in version.split(".")[:2])
    for first, last, cuda in _ONNXRUNTIME_CUDA:
        if first <= (major, minor) <= last:
            return cuda
    return None


def _cuda_wanted(packages: Mapping[str, str]) -> dict[str, int]:
    """Package -> the major CUDA version that it needs the driver to support."""
    wanted = {
        name: int(match.group(1))
        for name in packages
        if (match := _CUDA.search(name)) and not _CUDNN.fullmatch(name)
    }
    theirs = _onnxruntime_cuda(packages.get("onnxruntime-gpu", "0.0"))
    return wanted if theirs is None else wanted | {"onnxruntime-gpu": theirs}


def _old_driver(
    packages: Mapping[str, str], driver_cuda: tuple[int, int] | None
) -> Conflict | None:
    wanted = _cuda_wanted(packages)
    if driver_cuda is None or not wanted or max(wanted.values()) <= driver_cuda[0]:
        return None
    name = max(wanted, key=lambda each: wanted[each])
    return Conflict(
        f"{name} needs CUDA {wanted[name]}, the driver supports CUDA "
        f"{driver_cuda[0]}.{driver_cuda[1]} at most",
        "install a newer NVIDIA driver",
    )


def _no_device_layer(packages: Mapping[str, str]) -> Conflict | None:
    driven = [n for n in packages if n.startswith("tensorrt") or n == "onnxruntime-gpu"]
    if not driven or {"pycuda", "cuda-python", "cuda-bindings"} & set(packages):
        return None
    return Conflict(
        f"{driven[0]} is installed without cuda-python or pycuda, one of which drives it",
        "pip install cuda-python",
    )
