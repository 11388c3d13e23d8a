"""Embeddings on disk, so that a study opened again is not encoded again.

There is one file per slice, named by the hash of its pixels and of the bundle, and by what made it:
``<key>.<backend>.<precision>.<software>.embedding``. An update of samihs or of a library changes
the name, and the old files age out. A file holds the blake2b digest (32 bytes) of a ``.npy`` file,
then that file; if they do not match, it is dropped and the slice encoded again. It contains no name
or number of a patient, but an image could be reconstructed from it, so each file, and the folder if
it is created here, is accessible to its owner only (modes 600 and 700).
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.atomic_file import atomic_write
from samihs_runtime.environment import software
from samihs_runtime.errors import OutputError

_DIGEST_BYTES = 32
_SUFFIX = ".embedding"
_ABANDONED_S = 3600.0
"""No embedding takes an hour to write: a file that is still partial after that was abandoned."""
DEFAULT_STORE_MB = 4096.0
"""1,000 slices of a ViT-B at 1024 (4 MiB each)."""


class EmbeddingStore:
    """A folder of embeddings, bounded by bytes; the least recently used are removed first.

    Safe for several threads and several processes: files appear whole, by renaming. What other
    processes write is counted from time to time: N of them stay within 1 + N / 16 times the bound.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        backend: str,
        precision: str,
        max_mb: float = DEFAULT_STORE_MB,
    ) -> None:
        """Open or create the folder.

        Args:
            folder: where the files are.
            backend: name of the backend that makes the embeddings; those of others are not used.
            precision: of what the backend runs. A bundle may have engines of several precisions;
                which one is used may change with the engines built since, while the bundle's id
                does not.
            max_mb: bound on all files together, MiB.

        Raises:
            OutputError: the folder cannot be created or written.
        """
        self.folder = Path(folder)
        self.max_bytes = int(max_mb * 2**20)
        self._made_by = f"{backend}.{precision}.{software()}"
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OutputError(
                f"embeddings cannot be kept in {self.folder}: {error.strerror}; name a folder "
                "that can be written"
            ) from error
        self._sweep()
        self._bytes = sum(size for _, size, _ in self._files())
        self._since_counted = 0

    def get(self, key: str) -> NDArray[np.float32] | None:
        """The embedding [E, G, G], or None if there is no intact one."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _digest(body) != digest:
            self._drop(path, len(content))
            return None
        with suppress(OSError):
            os.utime(path)
        array: NDArray[np.float32] = np.load(io.BytesIO(body), allow_pickle=False)
        return array

    def put(self, key: str, embedding: NDArray[np.float32]) -> None:
        """Keep an embedding. If the disk is full, only this copy is lost, not the answer.

        An embedding with non-finite numbers is not kept: it would pass the fault on to later runs.
        """
        if not np.isfinite(embedding).all():
            return
        buffer = io.BytesIO()
        np.save(buffer, embedding, allow_pickle=False)
        body = buffer.getvalue()
        size = _DIGEST_BYTES + len(body)
        path = self._path(key)
        if size > self.max_bytes or os.path.exists(path):
            return
        try:
            atomic_write(path, _digest(body) + body, mode=0o600)
        except OSError:
            return
        with self._lock:
            self._bytes += size
            self._since_counted += size
        self._prune()

    def drop(self, key: str) -> None:
        """Remove an embedding; harmless if there is none."""
        path = self._path(key)
        with suppress(OSError):
            self._drop(path, path.stat().st_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all files that this process knows of."""
        return self._bytes

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.{self._made_by}{_SUFFIX}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path), oldest first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process dropped it
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        return sorted(found)

    def _sweep(self) -> None:
        """Remove files whose writing was interrupted: nothing else counts them."""
        oldest = time.time() - _ABANDONED_S
        for path in self.folder.glob(f".*{_SUFFIX}.*"):
            with suppress(OSError):  # another process was faster
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _prune(self) -> None:
        if self._bytes <= self.max_bytes and self._since_counted <= self.max_bytes // 16:
            return
        files = self._files()
        with self._lock:
            self._bytes, self._since_counted = sum(size for _, size, _ in files), 0
        for _, size, path in files:
            if self._bytes <= self.max_bytes:
                return
            self._drop(path, size)

    def _drop(self, path: Path, size: int) -> None:
        with suppress(OSError):
            path.unlink()
            with self._lock:
                self._bytes -= size


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
