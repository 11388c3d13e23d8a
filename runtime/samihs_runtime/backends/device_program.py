"""What a GPU backend needs of a program: one encoder or decoder, whatever library runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from samihs_runtime.backends.cuda import Stream
from samihs_runtime.backends.program_buffers import ProgramBuffers
from samihs_runtime.backends.warm_up import Shapes


@dataclass(frozen=True)
class GraphUse:
    """Whether a program replays CUDA graphs."""

    shapes: int
    """How many shapes have one so far."""
    refusal: str = ""
    """Why none has one; empty if some have, or may get one when they occur."""

    def __str__(self) -> str:
        if self.shapes:
            return f"{self.shapes} shape{'s' if self.shapes > 1 else ''}"
        return f"none ({self.refusal})" if self.refusal else "none yet"


class DeviceProgram(Protocol):
    """An encoder or a decoder on a GPU; not to be used by two threads at once."""

    stream: Stream
    buffers: ProgramBuffers
    """Every input and output, for the largest batch."""

    @property
    def max_batch(self) -> int:
        """Most slices or prompts in one run."""
        ...

    @property
    def graphs(self) -> GraphUse:
        """Whether CUDA graphs are replayed."""
        ...

    def try_out(self, shapes: Shapes) -> None:
        """Run meaningless inputs of these shapes, without capturing a graph.

        Raises:
            BackendError: it does not run; DeviceMemoryError if memory is short.
        """
        ...

    def is_ready(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes can be run without calling :meth:`warm_up` first."""
        ...

    def warm_up(self, every: Sequence[Shapes]) -> None:
        """Run each of these shapes until it is as fast as it gets; skip unsupported ones.

        The contents of :attr:`buffers` are overwritten.

        Raises:
            DeviceMemoryError: there is not enough memory for one of them.
        """
        ...

    def enqueue(self, feeds: Mapping[str, NDArray[Any]], device_shapes: Shapes) -> Shapes:
        """Put one run on the stream.

        Args:
            feeds: host inputs, by name.
            device_shapes: shapes of the inputs that are already in :attr:`buffers`.

        Returns:
            The shapes of the outputs. Host outputs may be read once the stream has finished.
        """
        ...

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        ...
