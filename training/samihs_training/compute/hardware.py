"""What a device computes fast: number types, and the memory layout of images.

A recipe says what is computed. Whether mixed precision gains anything depends on the machine: a CPU
without instructions for bfloat16 emulates it, at a third of its speed in float32.
"""

from __future__ import annotations

import torch

_CPU_FEATURES = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16"),  # the last is ARM's
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}
_NARROW = ("DEFAULT", "NO AVX", "AVX2")
"""What torch calls an x86 CPU without AVX-512, depending on how torch was built."""


def multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device has instructions that multiply matrices of ``dtype``, bfloat16 or float16.

    Where torch cannot tell (of a CPU, before version 2.13), the device is taken to have them, as
    the recipe that asks for the type implies.
    """
    if device.type == "cuda":
        return dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in _CPU_FEATURES[dtype])


def mixed_precision(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, *, wanted: bool = True
) -> torch.autocast:
    """Autocast to ``dtype`` where that is ``wanted`` and the device :func:`multiplies` it."""
    return torch.autocast(device.type, dtype, enabled=wanted and multiplies(device, dtype))


def image_format(device: torch.device) -> torch.memory_format:
    """The memory format of convolution weights, which their images follow.

    Channels last: with AVX-512, small convolutions are then up to five times faster. A CPU without
    it would take four times as long for the gradients of their weights (20 GFLOP/s instead of 80 on
    two cores of a Zen 3, torch 2.13), and keeps channels first.
    """
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _NARROW:
        return torch.contiguous_format
    return torch.channels_last
