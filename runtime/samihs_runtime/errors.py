"""SAMIHS's own errors. Misuse of the Python interface is ValueError or TypeError, as elsewhere.

::

    SamihsError                    exit 1: a fault of SAMIHS or of the machine
    └── UserError                  exit 2: something the user can fix; the message says how
        ├── UsageError             an option or a combination of options
        ├── StudyError             the input is not a CT study that can be read correctly
        │   └── SeriesError         the request fits none of its series, or several
        ├── PromptError            a point, box or slice outside the image, or malformed
        ├── BundleError            a bundle that is missing, changed or of another schema
        ├── BackendError           a backend that is not installed or cannot run here
        │   ├── DeviceMemoryError   the GPU's memory is full
        │   └── NonFiniteError      an answer with NaN or infinity: no mask, not even an empty one
        ├── OutputError            a place that cannot be written, or would be overwritten
        │   └── FormatError         a format that cannot hold this series
        ├── CheckpointError        a training or base checkpoint that does not fit
        ├── DataError              a training case that is wrong; names the file
        └── ExportError            an export step that cannot be done
            └── ParityError        a numerical gate that failed

A message is one line: what it is about, what was found, what was expected, how to fix it. Commands
print it to stderr and exit with the code above; a traceback is shown only with ``--debug``.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Literal, NoReturn, ParamSpec, TypeVar

from samihs_runtime.streams import tolerant_streams

EXIT_OWN_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_TERMINATED = 143  # 128 + SIGTERM

Reason = Literal[
    "",
    "missing",
    "no_access",
    "no_dicom",
    "damaged",
    "refused_zip",
    "over_limit",
    "no_ct",
    "mixed_series",
    "no_such_series",
    "several_series",
    "several_studies",
    "outside_image",
    "outside_series",
    "no_such_slice",
    "different_slices",
    "no_plausible_hu",
    "uneven_slices",
    "not_writable",
    "not_finite",
    "internal_error",
]
"""What ``clicks.csv`` says of a failed click instead of the message (docs/clicking.md): a fixed
word identifies nobody. Empty for errors that no click of many can cause."""
P = ParamSpec("P")
R = TypeVar("R")


class SamihsError(Exception):
    """Base class of all; caught by the commands."""

    exit_code = EXIT_OWN_FAULT

    def __init__(self, message: str = "", *, reason: Reason = "") -> None:
        """Its one-line message, and which of the fixed reasons it is, if any."""
        super().__init__(message)
        self.reason = reason


class UserError(SamihsError):
    """Something that the user can fix."""

    exit_code = EXIT_USER_ERROR


class UsageError(UserError):
    """An option, or a combination of options, that makes no sense."""


class StudyError(UserError):
    """The input is not a CT study that can be read correctly."""


class SeriesError(StudyError):
    """The study can be read, but the request fits none of its series, or several."""


class PromptError(UserError):
    """A point, box or slice that is malformed or outside the image."""


class BundleError(UserError):
    """A bundle that is missing, changed, unsafe or of another schema."""


class BackendError(UserError):
    """A backend that is not installed or cannot run on this machine."""


class DeviceMemoryError(BackendError):
    """The GPU's memory is full."""


class NonFiniteError(BackendError):
    """Non-finite score or logits for this slice or click; others may still succeed."""


class OutputError(UserError):
    """A place that cannot be written, or that would be overwritten."""


class FormatError(OutputError):
    """A format that cannot hold this series."""


class CheckpointError(UserError):
    """A checkpoint that is unreadable or does not fit the model."""


class DataError(UserError):
    """A training case that is wrong; the message names the file."""


class ExportError(UserError):
    """An export step that cannot be done."""


class ParityError(ExportError):
    """A numerical gate that failed."""


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command's body: a :class:`SamihsError` becomes one line on stderr and its exit code.

    The body goes on if nobody reads what it prints any more (:mod:`samihs_runtime.streams`).

    Other exceptions are bugs: one line as well and exit 1, unless ``SAMIHS_DEBUG=1`` (set by
    ``--debug``) asks for the traceback. Click's own exceptions are left for Click to handle.
    """
    from click.exceptions import Abort, ClickException, Exit  # library users need no Click

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        tolerant_streams()
        try:
            return command(*args, **kwargs)
        except (Abort, ClickException, Exit):
            raise
        except SamihsError as error:
            if shows_tracebacks():
                raise
            _exit(f"error: {one_line(error)}", error.exit_code)
        except KeyboardInterrupt:
            _exit("interrupted", EXIT_INTERRUPTED)
        except Exception as error:
            if shows_tracebacks():
                raise
            text = f"{type(error).__name__}: {one_line(error)}"
            _exit(f"internal error: {text} (--debug shows where)", EXIT_OWN_FAULT)

    return guarded


def shows_tracebacks() -> bool:
    """Whether ``--debug`` was given."""
    return os.environ.get("SAMIHS_DEBUG") == "1"


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
