"""UIDs computed from others, for objects that must not or cannot carry those of their sources."""

from __future__ import annotations

import hashlib

MAX_UID_LENGTH = 64
"""PS3.5 section 9.1."""


def new_uid(uid: str) -> str:
    """The replacement for a UID, always the same: 128 bits, written as PS3.5 B.2 writes a UUID.

    Nothing is not replaced: all series without a UID would share its replacement.
    """
    if not uid:
        return ""
    digest = hashlib.sha256(f"samihs-deidentify/{uid}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def storable_uid(uid: str) -> str:
    """The UID, or its replacement if it is longer than DICOM allows."""
    return uid if len(uid) <= MAX_UID_LENGTH else new_uid(uid)
