"""The ``with`` statement for everything that has a ``close``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from samihs_runtime.errors import SamihsError


class Closable(Protocol):
    """Anything that has a ``close``."""

    def close(self) -> None: ...


def close_all(things: Iterable[Closable]) -> None:
    """Close each, in order, even if an earlier one failed; the last error is then raised.

    A lost device fails every call, but everything else must still be released.
    """
    with ExitStack() as stack:
        for thing in reversed(list(things)):
            stack.callback(thing.close)


class Closing(ABC):
    """A context manager that closes itself on exit, whatever happened inside."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; calling it twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except SamihsError:
            if error is None:  # the first error says more than the one that closing then raises
                raise
