"""Header values, or None; these never raise, whatever a broken header contains.

pydicom converts a value when it is first accessed, and a malformed one may then raise almost
anything; a header that merely contains one somewhere must still be readable.
"""

from __future__ import annotations

import math
from typing import Any


def value(dataset: Any, keyword: str) -> Any:
    """The value of a keyword, or None if it is missing, empty or cannot be converted."""
    try:
        found = dataset.get(keyword)
    except Exception:  # any: see the module's docstring
        return None
    return None if found is None or (isinstance(found, str) and not found.strip()) else found


def text(dataset: Any, keyword: str) -> str:
    """A value as printable text on one line; empty if missing."""
    found = value(dataset, keyword)
    return "" if found is None else "".join(c for c in str(found) if c.isprintable()).strip()


def strings(dataset: Any, keyword: str) -> tuple[str, ...]:
    """A multi-valued string; empty if missing."""
    found = value(dataset, keyword)
    if found is None:
        return ()
    parts = [found] if isinstance(found, str) else found
    try:
        return tuple(str(part).strip() for part in parts)
    except TypeError:
        return ()


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """A multi-valued code string, upper case; empty if missing."""
    return tuple(part.upper() for part in strings(dataset, keyword))


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    found = value(dataset, keyword)
    if found is None or isinstance(found, (str, bytes)):
        return None
    try:
        values = tuple(float(v) for v in (found if hasattr(found, "__iter__") else [found]))
    except (TypeError, ValueError, OverflowError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def number(dataset: Any, keyword: str) -> float | None:
    """One finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Any, keyword: str) -> int | None:
    """One whole number, or None."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence; empty if it is missing or not a sequence."""
    found = value(dataset, keyword)
    try:
        return [item for item in found if hasattr(item, "get")] if found is not None else []
    except Exception:  # a broken sequence raises while its items are parsed
        return []
