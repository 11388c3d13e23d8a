"""Memory of a training process: what one step frees is kept for the next.

glibc returns a block above 32 MB to the system at once. The next block of that size consists of new
pages, each of them zeroed by the kernel when first touched: on a CPU that takes half the time of a
step whose tensors are that large.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
_AT_A_TIME = 64 << 20  # bytes the heap grows by


def keep_freed_memory() -> bool:
    """Allocate large blocks on the heap too, and never shrink it, for the whole process.

    Returns:
        Whether glibc accepted the settings. With another C library nothing is done; an allocator
        preloaded in place of glibc's is not affected.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _AT_A_TIME))
    return all(mallopt(option, value) == 1 for option, value in options)
