"""TensorRT-RTX compiles an engine's kernels on the GPU that runs them; this keeps them on disk.

Without it each process would compile them again, which takes seconds. ``<engine>.kernels`` holds
the blake2b digest (32 bytes) of what follows: the engine's sha256 in hexadecimal (64), then
TensorRT-RTX's own runtime cache, which it checks again against GPU, driver and version. TensorRT
itself compiles when an engine is built, so there is nothing to keep.

For a shape that it has not seen, TensorRT-RTX would by default run general kernels, and exchange
them for specialised ones as a background thread compiles these: a CUDA graph captured meanwhile
would replay the general ones for ever, or be captured in the middle of an exchange. So contexts
compile a shape's kernels at once (EAGER), before its first run; that is the wait that the file
saves the next process.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.errors import DeviceMemoryError

_DIGEST_BYTES = 32


class KernelCache:
    """Creates an engine's execution contexts; those of TensorRT-RTX share compiled kernels."""

    def __init__(self, trt: Any, engine: Any, path: Path, engine_sha256: str) -> None:
        """Read what an earlier process compiled.

        Args:
            trt: ``tensorrt`` or ``tensorrt_rtx``.
            engine: deserialised.
            path: its file.
            engine_sha256: of that file, so that no other engine's kernels are used.
        """
        self._engine = engine
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._path = path.with_suffix(".kernels")
        self._head = engine_sha256.encode()
        self._config: Any = None
        self._cache: Any = None
        self._known = b""
        if hasattr(trt, "IRuntimeCache"):
            self._config = engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._strategy)
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager
            self._cache = self._config.create_runtime_cache()
            self._read()
            self._config.set_runtime_cache(self._cache)

    def create_context(self) -> Any:
        """A context whose scratch memory the caller provides.

        Raises:
            DeviceMemoryError: TensorRT created none, which happens if memory is short.
        """
        how = self._strategy if self._config is None else self._config
        context = self._engine.create_execution_context(how)
        if context is None:
            raise DeviceMemoryError("TensorRT gave no execution context: the GPU's memory is full")
        return context

    def save(self) -> None:
        """Keep the compiled kernels; if that fails, only the next start is slower."""
        if self._cache is None:
            return
        try:
            blob = self._cache.serialize()
        except Exception:  # of TensorRT's: it costs this process nothing
            return
        body = b"" if blob is None else bytes(blob)
        if not body or body == self._known:
            return
        with suppress(OSError):
            atomic_write(self._path, _digest(self._head + body) + self._head + body)
            self._known = body

    def close(self) -> None:
        """Release the engine."""
        self._engine = self._config = self._cache = None

    def _read(self) -> None:
        try:
            content = self._path.read_bytes()
        except OSError:
            return
        digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        body = rest[len(self._head) :]
        if (
            digest == _digest(rest)
            and rest.startswith(self._head)
            and self._cache.deserialize(body)
        ):
            self._known = body


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
