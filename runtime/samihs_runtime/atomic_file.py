"""One file, whole or not at all: written under a hidden name beside its place, then renamed.

Folders of several files that belong together are ``writers/files.py``'s.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; what is there when the body ends takes the place of ``path``.

    Where the body raises, ``path`` is as it was before and nothing is left beside it. The name
    is this call's own, so that threads and processes which write the same file do not meet.

    Raises:
        OSError: as writing and renaming give it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write text (UTF-8) or bytes, readable by whom ``mode`` less the umask says.

    Raises:
        OSError: as :func:`atomic_path`.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as partial:
        # Never for a moment with more than the mode, as a chmod afterwards would have it.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as stream:
            stream.write(data)
