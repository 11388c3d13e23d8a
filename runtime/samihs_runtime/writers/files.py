"""All or nothing: files are prepared out of sight and moved into place when all are whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from samihs_runtime.errors import OutputError

_PREFIX = ".samihs-"
_HIDDEN = re.compile(re.escape(_PREFIX) + r"[a-z0-9_]{8}")
"""Names as :func:`tempfile.mkdtemp` makes them."""
_ABANDONED_S = 3600.0
"""Nobody writes one result for an hour: a hidden folder of that age is of a run that was killed."""


@dataclass(eq=False)
class Stage:
    """A folder to write into; where its files ended up, once the ``with`` statement is left."""

    folder: Path
    written: dict[str, Path] = field(default_factory=dict)
    """File name -> final path."""


@contextmanager
def staged_folder(
    destination: Path, names: Sequence[str], *, overwrite: bool = False
) -> Iterator[Stage]:
    """Prepare files in a temporary folder, and move them into ``destination`` at the end.

    Where the body raises, the destination is as it was before. Where it does not exist, it appears
    with all its files at once; where it does, its files are exchanged one by one, and put back if
    one cannot be. The temporary folder is hidden and lies in the destination itself where that is
    there: it may be all that can be written, or a file system of its own. What runs that were
    killed left beside it goes.

    Args:
        destination: the folder the files are for; made where it is not there, with its parents.
        names: file names that belong to this output. None may be there yet, unless ``overwrite``,
            when all of them go, so that no file of an earlier result stays beside a new one's.
        overwrite: see ``names``.

    Raises:
        OutputError: the destination is no folder, cannot be written, or holds one of the names.
    """
    _check_free(destination, names, overwrite)
    root = _hidden_folder(destination)
    _sweep(root.parent)
    try:
        # A folder of its own inside: mkdtemp's is private (0700), the result's is not.
        stage = Stage(root / "new")
        stage.folder.mkdir()
        yield stage
        files = sorted(stage.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        order = [path.name for path in files]
        _check_free(destination, names, overwrite)  # another process may have been faster
        _install(stage.folder, destination, names, root / "old")
        stage.written.update({name: destination / name for name in order})
    except OSError as error:
        raise _unwritable(destination, error) from error
    finally:
        shutil.rmtree(root, ignore_errors=True)


def check_destination(
    destination: Path, names: Sequence[str] = (), *, overwrite: bool = False
) -> None:
    """Refuse at once what :func:`staged_folder` would refuse after the work; leaves nothing.

    Raises:
        OutputError: the destination is no folder, cannot be written, or holds one of the names.
    """
    _check_free(destination, names, overwrite)
    # Tried, not asked for: permission bits do not say what a network folder allows.
    _hidden_folder(destination).rmdir()


def _check_free(destination: Path, names: Sequence[str], overwrite: bool) -> None:
    if os.path.exists(destination) and not destination.is_dir():
        raise OutputError(f"{destination} is a file: --out takes a folder; name another")
    taken = [name for name in names if os.path.lexists(destination / name)]
    if taken and not overwrite:
        raise OutputError(
            f"{destination} already holds {', '.join(taken)}: name another folder, or give "
            "--overwrite to replace them"
        )


def _hidden_folder(destination: Path) -> Path:
    """A new one, in the destination or in the nearest place above it that is there: on its file
    system, most likely."""
    absolute = destination.absolute()
    there = next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=there))
    except OSError as error:
        raise _unwritable(destination, error) from error


def _sweep(place: Path) -> None:
    """Remove hidden folders that nobody writes into any more: they may hold a patient's pictures.

    One that holds an earlier result stays: it was killed between taking that out and putting the
    new one in.
    """
    oldest = time.time() - _ABANDONED_S
    with suppress(OSError):
        for path in place.iterdir():
            with suppress(OSError):  # another process was quicker
                if not _HIDDEN.fullmatch(path.name) or path.stat().st_mtime > oldest:
                    continue
                inside = list(path.iterdir())
                if all(each.name == "new" or not any(each.iterdir()) for each in inside):
                    shutil.rmtree(path, ignore_errors=True)


def _install(new: Path, destination: Path, names: Sequence[str], old: Path) -> None:
    """Move the new files in; put the old ones back where that fails."""
    if not destination.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.rename(new, destination)
        return
    old.mkdir()
    placed: list[str] = []
    try:
        for name in names:
            if os.path.lexists(destination / name):
                os.replace(destination / name, old / name)
        for path in sorted(new.iterdir()):
            os.replace(path, destination / path.name)
            placed.append(path.name)
    except BaseException:  # of an interrupted exchange, too, the old files are not lost
        for name in placed:
            (destination / name).unlink()
        for path in old.iterdir():
            os.replace(path, destination / path.name)
        raise


def _unwritable(destination: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{destination} cannot be written ({reason}): name another folder")
