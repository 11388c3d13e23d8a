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
from samihs_runtime.folder_lock import held_alone

NEW, OLD = "new", "old"
"""What a hidden folder holds: files on their way in, files taken out of the folder it lies in."""
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
    with all its files at once; where it does, its files are exchanged one by one, by one process at
    a time, and put back if one cannot be. The temporary folder is hidden and lies in the
    destination itself where that is there: it may be all that can be written, or a file system of
    its own. What runs that were killed left beside it goes; an earlier result that one had taken
    out comes back first.

    Args:
        destination: the folder the files are for; made where it is not there, with its parents.
        names: file names that belong to this output. None may be there yet, unless ``overwrite``,
            when all of them go, so that no file of an earlier result stays beside a new one's.
        overwrite: see ``names``.

    Raises:
        OutputError: the destination is no folder, cannot be written, holds one of the names, or
            another process is putting files in.
    """
    _sweep(_nearest(destination), names)
    _check_free(destination, names, overwrite)
    root = _hidden_folder(destination)
    try:
        # A folder of its own inside: mkdtemp's is private (0700), the result's is not.
        stage = Stage(root / NEW)
        stage.folder.mkdir()
        yield stage
        files = sorted(stage.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        order = [path.name for path in files]
        _install(stage.folder, destination, names, overwrite)
        stage.written.update({name: destination / name for name in order})
    except OSError as error:
        raise _unwritable(destination, error) from error
    finally:
        shutil.rmtree(root, ignore_errors=True)


def check_destination(
    destination: Path, names: Sequence[str] = (), *, overwrite: bool = False
) -> None:
    """Refuse at once what :func:`staged_folder` would refuse after the work; writes nothing.

    Raises:
        OutputError: the destination is no folder, cannot be written, or holds one of the names.
    """
    if names:
        _sweep(_nearest(destination), names)
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
            f"--overwrite to replace them{_told_aside(destination)}"
        )


def _nearest(destination: Path) -> Path:
    """The destination, or the nearest place above it that is there: on its file system, most
    likely."""
    absolute = destination.absolute()
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))


def _hidden_folder(destination: Path) -> Path:
    """A new one, in the nearest place."""
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_nearest(destination)))
    except OSError as error:
        raise _unwritable(destination, error) from error


def _sweep(place: Path, names: Sequence[str]) -> None:
    """Remove hidden folders that nobody writes into any more: they may hold a patient's pictures.

    An earlier result in one goes back to ``place``, where nothing has taken its place; else it
    stays (:func:`_told_aside`) until it is overwritten.
    """
    for hidden in _abandoned(place):
        with suppress(OSError):  # another process was quicker
            earlier = _taken_out(hidden)
            if earlier and _any_there(place, (*names, *(path.name for path in earlier))):
                continue
            for path in earlier:
                os.replace(path, place / path.name)
            shutil.rmtree(hidden, ignore_errors=True)


def _abandoned(place: Path) -> list[Path]:
    """Hidden folders of runs that were killed; none where the place cannot be looked into."""
    oldest = time.time() - _ABANDONED_S
    found = []
    with suppress(OSError):
        for path in place.iterdir():
            with suppress(OSError):
                if not _HIDDEN.fullmatch(path.name) or path.stat().st_mtime > oldest:
                    continue
                if all(each.name in (NEW, OLD) for each in path.iterdir()):
                    found.append(path)
    return found


def _taken_out(hidden: Path) -> list[Path]:
    """Files of an earlier result that a run took out, and was killed before the new one was in."""
    return sorted((hidden / OLD).iterdir()) if (hidden / OLD).is_dir() else []


def _told_aside(destination: Path) -> str:
    """Where such files lie; the end of a message."""
    places = [hidden / OLD for hidden in _abandoned(destination) if _taken_out(hidden)]
    if not places:
        return ""
    named = ", ".join(map(str, places))
    return f"; what a run that was killed took out of an earlier result lies in {named}"


def _any_there(place: Path, names: Sequence[str]) -> bool:
    return any(os.path.lexists(place / name) for name in names)


def _install(new: Path, destination: Path, names: Sequence[str], overwrite: bool) -> None:
    """Move the new files in, one process at a time: else two results would end up mixed."""
    if not destination.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.rename(new, destination)
        return
    with held_alone(destination, "writes"):
        _check_free(destination, names, overwrite)  # another process may have been faster
        _exchange(new, destination, names)
        if overwrite:
            for hidden in _abandoned(destination):
                shutil.rmtree(hidden, ignore_errors=True)


def _exchange(new: Path, destination: Path, names: Sequence[str]) -> None:
    """Put the new files in the place of the old ones; put those back where that fails."""
    aside = _hidden_folder(destination)
    old = aside / OLD
    old.mkdir()
    placed: list[str] = []
    try:
        for name in names:
            if os.path.lexists(destination / name):
                os.replace(destination / name, old / name)
        for path in sorted(new.iterdir()):
            placed.append(path.name)  # first: a signal may come while the file is moved
            os.replace(path, destination / path.name)
    except BaseException:  # of an interrupted exchange, too, the old files are not lost
        for name in placed:
            if not os.path.lexists(new / name):
                (destination / name).unlink()
        for path in old.iterdir():
            os.replace(path, destination / path.name)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _unwritable(destination: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{destination} cannot be written ({reason}): name another folder")
