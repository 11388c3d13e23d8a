"""Makes ``htj2k.npz``: HTJ2K codestreams (ISO/IEC 15444-15), which nothing the project uses writes.

    pip install imagecodecs numpy
    python tests/golden/make_htj2k.py

The picture is arithmetic, not a patient: a slope with a step, 12 bits in 16.
"""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

SIDE = 64


def main() -> None:
    """Encode without loss and with."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    stored = (24 + 16 * rows + 7 * columns + 1000 * (columns > 40)).astype(np.uint16)
    lossless = imagecodecs.htj2k_encode(stored, reversible=True)
    lossy = imagecodecs.htj2k_encode(stored, reversible=False)
    np.savez(
        Path(__file__).with_name("htj2k.npz"),
        stored=stored,
        lossless=np.frombuffer(lossless, np.uint8),
        lossy=np.frombuffer(lossy, np.uint8),
    )


if __name__ == "__main__":
    main()
