"""TensorRT's build messages, kept instead of printed: errors, and the memory of the engine."""

from __future__ import annotations

import re
from typing import Any, Protocol

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


class BuildLog(Protocol):
    """A TensorRT logger that keeps what is read after the build."""

    activation_bytes: int | None
    """Memory the engine needs for activations at its profile's largest shapes; None if the builder
    did not report it."""

    def last_error(self) -> str:
        """The last error, or that there was none."""
        ...


def build_log(trt: Any) -> BuildLog:
    """A logger for builders and parsers of the module ``trt``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.activation_bytes: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif found := _ACTIVATIONS.search(message):
                self.activation_bytes = int(found[1])

        def last_error(self) -> str:
            return (self.errors or ["it gave no reason"])[-1]

    return Log()
