"""Which NVIDIA GPUs the driver sees; asks the driver itself, so no package is needed.

Cheap if there is none (one failed ``dlopen``), so that ``--backend auto`` costs a CPU-only machine
nothing.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from typing import Any

_SUCCESS, _NO_DEVICE = 0, 100
# CUdevice_attribute, cuda.h
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One device, as the driver describes it."""

    index: int
    name: str
    compute_capability: str
    """Such as ``8.9``."""
    memory_bytes: int


@dataclass(frozen=True)
class GpuProbe:
    """What the driver answered."""

    devices: tuple[Gpu, ...]
    cuda: tuple[int, int] | None
    """Newest CUDA version that the driver supports, such as (13, 0)."""
    reason: str
    """Why there is no device; empty if there is one."""


@functools.cache
def probe_gpus() -> GpuProbe:
    """Ask the driver once per process."""
    return _probe(_load_driver)


def _load_driver() -> Any:
    if sys.platform == "win32":
        return ctypes.WinDLL("nvcuda.dll")
    return ctypes.CDLL("libcuda.so.1")


def _probe(load_driver: Any) -> GpuProbe:
    try:
        driver = load_driver()
    except OSError:
        return GpuProbe((), None, "no NVIDIA driver is installed")
    version = ctypes.c_int()
    cuda = None
    if driver.cuDriverGetVersion(ctypes.byref(version)) == _SUCCESS and version.value:
        cuda = (version.value // 1000, version.value % 1000 // 10)
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return GpuProbe((), cuda, "the NVIDIA driver sees no GPU (check CUDA_VISIBLE_DEVICES)")
    if status != _SUCCESS:
        return GpuProbe((), cuda, f"the NVIDIA driver does not start (cuInit gives {status})")
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    devices = tuple(_device(driver, index) for index in range(count.value))
    return GpuProbe(devices, cuda, "" if devices else "the NVIDIA driver sees no GPU")


def _device(driver: Any, index: int) -> Gpu:
    handle, value, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(str(value.value))
    text = name.value.decode(errors="replace")
    return Gpu(index, text, ".".join(capability), memory.value)
