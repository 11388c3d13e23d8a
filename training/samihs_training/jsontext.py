"""Results as JSON that every parser can read."""

from __future__ import annotations

import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """Indented JSON with a final newline; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
