"""Write a file completely or not at all: under a hidden name in the same folder, then renamed.

For folders of several files that belong together see ``writers/files.py``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; when the body ends, the file there replaces ``path``.

    If the body raises, ``path`` is unchanged and no other file is left behind. The temporary name
    is unique to the call, so that threads and processes writing the same file do not collide.

    Raises:
        OSError: from writing or renaming.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write text (UTF-8) or bytes, with the permissions ``mode`` less the umask.

    Raises:
        OSError: from writing or renaming.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as partial:
        # Created with the mode: a chmod afterwards would leave wider permissions for a moment.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as stream:
            stream.write(data)
