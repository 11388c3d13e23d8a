"""Which backend runs a bundle on this machine, and why not the others.

``auto`` takes the first that opens, fastest first; one that fails in any way is skipped, since
libraries raise all kinds of exceptions. A backend that was asked for by name either runs or is an
error: it is never replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samihs_runtime.backends.base import Backend
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import (
    BackendError,
    BundleError,
    UsageError,
    one_line,
    shows_tracebacks,
)
from samihs_runtime.timing import Timings

ORDER = ("tensorrt", "cuda", "cpu")
"""What ``--backend`` takes besides ``auto``; fastest first."""

Opener = Callable[[Bundle, Timings], Backend]


@dataclass(frozen=True, eq=False)
class Choice:
    """The backend that opened, and why each one before it did not."""

    backend: Backend
    reasons: tuple[str, ...]
    """Such as ``tensorrt: no NVIDIA GPU can be used: no NVIDIA driver is installed``."""


def choose(bundle: Bundle, wanted: str = "auto", timings: Timings | None = None) -> Choice:
    """Open the requested backend, or the first that opens.

    Args:
        bundle: an opened bundle.
        wanted: ``auto``, a name of :data:`ORDER`, or ``fake`` (tests).
        timings: where the loading of sessions and engines is recorded.

    Raises:
        UsageError: no such backend, or a wrong setting of the environment.
        BackendError: the requested one cannot run, or, for ``auto``, none can; one line says why.
        Exception: with ``--debug``, whatever a library raised when opening one.
    """
    timings = timings if timings is not None else Timings()
    openers = _openers()
    if wanted != "auto":
        if wanted not in openers:
            raise UsageError(f"backend {wanted!r}: expected auto, {', '.join(ORDER)}")
        try:
            return Choice(openers[wanted](bundle, timings), ("asked for by name",))
        except BackendError as error:
            raise BackendError(f"backend {wanted} was asked for and cannot run: {error}") from error
    reasons: list[str] = []
    for name in ORDER:
        try:
            return Choice(openers[name](bundle, timings), tuple(reasons))
        except UsageError:  # such as a wrong SAMIHS_THREADS: no other backend mends that
            raise
        except (BackendError, BundleError) as error:
            reasons.append(f"{name}: {error}")
        except Exception as error:  # a bug of ours or of a library: the next backend may work
            if shows_tracebacks():
                raise
            reasons.append(f"{name}: {internal_error(error)}")
    raise BackendError(f"no backend can run: {'; '.join(reasons)}")


def internal_error(error: Exception) -> str:
    """One line about an error that no backend should raise, and how to see more."""
    text = f"{type(error).__name__}: {one_line(error)}"
    return f"internal error: {text} (--debug shows where)"


def _openers() -> Mapping[str, Opener]:
    return {"tensorrt": _tensorrt, "cuda": _cuda, "cpu": _cpu, "fake": _fake}


# Each imports its module only when it is tried: a CPU run loads nothing from CUDA or TensorRT.


def _tensorrt(bundle: Bundle, timings: Timings) -> Backend:
    from samihs_runtime.backends.tensorrt import open_tensorrt

    return open_tensorrt(bundle, timings)


def _cuda(bundle: Bundle, timings: Timings) -> Backend:
    from samihs_runtime.backends.onnx_cuda import open_cuda

    return open_cuda(bundle, timings)


def _cpu(bundle: Bundle, timings: Timings) -> Backend:
    from samihs_runtime.backends.onnx_cpu import open_cpu

    return open_cpu(bundle, timings)


def _fake(bundle: Bundle, timings: Timings) -> Backend:
    from samihs_runtime.backends.fake import FakeBackend

    return FakeBackend.for_manifest(bundle.manifest)
