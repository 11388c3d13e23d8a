"""Counts in the words of notes and errors."""


def counted(count: int, one: str, several: str = "") -> str:
    """``1 slice``, ``2 slices``; ``several`` is the plural if it is not ``one`` with an s."""
    return f"{count} {one if count == 1 else several or one + 's'}"
