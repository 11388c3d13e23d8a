"""Result files: each is written whole or not at all; a full disk is reported in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samihs_runtime.atomic_file import atomic_path
from samihs_runtime.errors import OutputError


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the body ends, the file there replaces ``path``.

    The folder of ``path`` is created if needed.

    Raises:
        OutputError: the file cannot be written; ``path`` is as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            yield partial
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_output(path: Path, content: str) -> None:
    """Write a text (UTF-8); see :func:`output_path`."""
    with output_path(path) as partial:
        partial.write_text(content, encoding="utf-8")
