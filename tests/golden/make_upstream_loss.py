"""Makes ``upstream_loss.npz`` and ``upstream_loss.json`` from numbers of the authors' own code.

    python tests/golden/make_upstream_loss.py FOLDER

FOLDER holds the files that were computed once with the loss that the SAMIHS authors published:
``upstream_loss.npz`` (``logits_CASE`` float16 and ``target_CASE`` uint8, [256, 256] each) and
``upstream_loss.json`` (boundary loss, total loss and gradient norm of each case). Two cases, alone
and as one batch, stand here: eight would be 1 MB of noise. Nothing is recomputed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

CASES = ("disk30", "ring")
HERE = Path(__file__).parent


def main(source: Path) -> None:
    """Copy the cases' arrays and numbers out of ``source``."""
    arrays = np.load(source / "upstream_loss.npz")
    numbers = json.loads((source / "upstream_loss.json").read_text())
    kept = {
        f"{part}_{case}": arrays[f"{part}_{case}"]
        for part in ("logits", "target")
        for case in CASES
    }
    np.savez_compressed(HERE / "upstream_loss.npz", **kept)
    facts = {case: numbers[case] for case in (*CASES, f"batch_{'_'.join(CASES)}")}
    (HERE / "upstream_loss.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
