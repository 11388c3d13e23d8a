"""Memory of a training process: what one step frees is there for the next.

glibc gives a block above 32 MB back to the system at once. The next of that size is made of new
pages, each of them zeroed by the kernel at its first touch: on a CPU that is half the time of a
step whose tensors are that large.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
_AT_A_TIME = 64 << 20  # bytes the heap grows by


def keep_freed_memory() -> bool:
    """Take large blocks from the heap too, and never shrink it: for the whole process.

    Returns:
        Whether glibc was told so. Elsewhere nothing is done; an allocator that is preloaded in
        glibc's place is not concerned.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _AT_A_TIME))
    return all(mallopt(option, value) == 1 for option, value in options)
