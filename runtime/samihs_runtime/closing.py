"""What is opened is closed: the ``with`` statement for everything that has a ``close``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from samihs_runtime.errors import SamihsError


class Closable(Protocol):
    """Whatever has a ``close``."""

    def close(self) -> None: ...


def close_all(things: Iterable[Closable]) -> None:
    """Close each, in order, even where one before it failed; the last error is then raised.

    A device that was lost fails every call: what is left must still be let go of.
    """
    with ExitStack() as stack:
        for thing in reversed(list(things)):
            stack.callback(thing.close)


class Closing(ABC):
    """A context manager that closes itself on the way out, whatever happened inside."""

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
            if error is None:  # what went wrong first says more than what closing then finds
                raise
