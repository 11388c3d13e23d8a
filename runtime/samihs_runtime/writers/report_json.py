"""The JSON report, as described by ``docs/report-schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """Write a report's document as indented UTF-8 JSON.

    Raises:
        ValueError: a number that JSON cannot represent (NaN, infinity).
        OSError: the file cannot be written.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
