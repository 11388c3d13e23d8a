"""Which labels of a mask are hemorrhage, where a mask has several.

Data sets for more than one purpose number the types of bleeding (1 epidural, 2 ...), or mark brain
and skull as well. Nothing in a number tells which is which, so the user has to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from samihs_runtime.errors import DataError, UsageError

Labels = tuple[str, ...]
"""Numbers, or names where the data set has them; empty: none were named."""


def parsed(text: str | None) -> Labels:
    """The labels of a comma-separated list.

    Raises:
        UsageError: one of them is empty.
    """
    if text is None:
        return ()
    labels = tuple(each.strip() for each in text.split(","))
    if not all(labels):
        raise UsageError(f"labels {text!r}: expected names or numbers, such as 1,2,3")
    return labels


def numbered(labels: Iterable[str], names: Mapping[str, Labels]) -> Labels:
    """The labels as numbers in ascending order.

    Args:
        labels: numbers, or names in upper or lower case.
        names: name -> its numbers, as the data set gives them; none if it gives no names.

    Raises:
        UsageError: one is neither a number above 0 (if there are names: one that has a name) nor a
            name of the data set.
    """
    known = {name.casefold(): numbers for name, numbers in names.items()}
    given = {number for numbers in names.values() for number in numbers}
    found: set[int] = set()
    for label in labels:
        numbers = known.get(label.casefold(), (label,))
        if not all(each.isascii() and each.isdigit() and int(each) for each in numbers):
            numbers = ()
        if not numbers or (given and not given.issuperset(str(int(each)) for each in numbers)):
            wanted = f"one of {', '.join(names)}, or of their numbers" if names else ""
            raise UsageError(f"label {label!r}: expected {wanted or 'a number above 0'}")
        found.update(map(int, numbers))
    return tuple(map(str, sorted(found)))


def names_of_nnunet(root: Path) -> dict[str, Labels]:
    """Name -> numbers of the labels in an nnU-Net data set; empty without ``dataset.json``.

    Version 2 maps names to numbers, or to lists of them (regions); version 1 numbers to names.

    Raises:
        DataError: the file cannot be read, or has no labels of either form.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        given: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        pairs = [_name_and_numbers(key, value) for key, value in given.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}: no labels as nnU-Net writes them, such as {{"background": 0, "EDH": 1}}'
        ) from error
    return {name: numbers for name, numbers in pairs if numbers != ("0",)}


def _name_and_numbers(key: str, value: Any) -> tuple[str, Labels]:
    if isinstance(value, str):
        return value, (str(int(key)),)
    numbers = value if isinstance(value, list) else [value]
    return key, tuple(str(int(each)) for each in numbers)
