"""All or nothing: files are prepared in a hidden folder and moved into place when all are there."""

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
"""Subfolders of a hidden folder: files on their way in, and files taken out of its parent."""
_PREFIX = ".samihs-"
_HIDDEN = re.compile(re.escape(_PREFIX) + r"[a-z0-9_]{8}")
"""Names as :func:`tempfile.mkdtemp` makes them."""
_ABANDONED_S = 3600.0
"""No result takes an hour to write: a hidden folder of that age was left by a killed run."""


@dataclass(eq=False)
class Stage:
    """A folder to write into and, after the ``with`` statement, where its files are."""

    folder: Path
    written: dict[str, Path] = field(default_factory=dict)
    """File name -> final path."""


@contextmanager
def staged_folder(
    destination: Path, names: Sequence[str], *, overwrite: bool = False
) -> Iterator[Stage]:
    """Prepare files in a temporary folder, and move them into ``destination`` at the end.

    If the body raises, the destination is unchanged. If the destination does not exist, it appears
    with all its files at once; if it does, its files are exchanged one by one, by one process at a
    time, and restored if one cannot be exchanged. The temporary folder is hidden, and inside the
    destination if that exists, since it may be all that can be written, or a separate file system.
    Leftovers of killed runs next to it are removed; an earlier result that such a run had taken out
    is put back first.

    Args:
        destination: the folder for the files; created with its parents if necessary.
        names: file names that belong to this output. None may exist yet, unless ``overwrite``, when
            all of them are removed, so that no file of an earlier result stays with the new ones.
        overwrite: see ``names``.

    Raises:
        OutputError: the destination is not a folder, cannot be written, contains one of the names,
            or another process is writing to it.
    """
    _sweep(_nearest(destination), names)
    _check_free(destination, names, overwrite)
    root = _hidden_folder(destination)
    try:
        # A separate folder inside, since mkdtemp's is private (0700) and the result's is not.
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
        OutputError: the destination is not a folder, cannot be written, or contains one of the
            names.
    """
    if names:
        _sweep(_nearest(destination), names)
    _check_free(destination, names, overwrite)
    # Try it: permission bits do not tell what a network folder allows.
    _hidden_folder(destination).rmdir()


def _check_free(destination: Path, names: Sequence[str], overwrite: bool) -> None:
    if os.path.exists(destination) and not destination.is_dir():
        raise OutputError(
            f"{destination} is a file: --out takes a folder; name another", reason="not_writable"
        )
    taken = [name for name in names if os.path.lexists(destination / name)]
    if taken and not overwrite:
        raise OutputError(
            f"{destination} already holds {', '.join(taken)}: name another folder, or give "
            f"--overwrite to replace them{_told_aside(destination)}"
        )


def _nearest(destination: Path) -> Path:
    """The destination, or its nearest existing parent, which is most likely on the same file
    system."""
    absolute = destination.absolute()
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))


def _hidden_folder(destination: Path) -> Path:
    """A new hidden folder, in the nearest existing folder."""
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_nearest(destination)))
    except OSError as error:
        raise _unwritable(destination, error) from error


def _sweep(place: Path, names: Sequence[str]) -> None:
    """Remove hidden folders that are no longer written to: they may contain a patient's images.

    An earlier result in one is put back into ``place`` if nothing has replaced it there; otherwise
    it stays (:func:`_told_aside`) until it is overwritten.
    """
    for hidden in _abandoned(place):
        with suppress(OSError):  # another process was faster
            earlier = _taken_out(hidden)
            if earlier and _any_there(place, (*names, *(path.name for path in earlier))):
                continue
            for path in earlier:
                os.replace(path, place / path.name)
            shutil.rmtree(hidden, ignore_errors=True)


def _abandoned(place: Path) -> list[Path]:
    """Hidden folders of runs that were killed; none if the place cannot be listed."""
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
    """Files of an earlier result that a run took out before it was killed."""
    return sorted((hidden / OLD).iterdir()) if (hidden / OLD).is_dir() else []


def _told_aside(destination: Path) -> str:
    """The end of a message: where such files are."""
    places = [hidden / OLD for hidden in _abandoned(destination) if _taken_out(hidden)]
    if not places:
        return ""
    named = ", ".join(map(str, places))
    return f"; what a killed run took out of an earlier result lies in {named}"


def _any_there(place: Path, names: Sequence[str]) -> bool:
    return any(os.path.lexists(place / name) for name in names)


def _install(new: Path, destination: Path, names: Sequence[str], overwrite: bool) -> None:
    """Move the new files in, one process at a time; otherwise two results could get mixed."""
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
    """Replace the old files with the new ones; restore the old ones if that fails."""
    aside = _hidden_folder(destination)
    old = aside / OLD
    old.mkdir()
    placed: list[str] = []
    try:
        for name in names:
            if os.path.lexists(destination / name):
                os.replace(destination / name, old / name)
        for path in sorted(new.iterdir()):
            placed.append(path.name)  # first: a signal may arrive while the file is moved
            os.replace(path, destination / path.name)
    except BaseException:  # even after an interruption the old files are not lost
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
    return OutputError(
        f"{destination} cannot be written ({reason}): name another folder", reason="not_writable"
    )
