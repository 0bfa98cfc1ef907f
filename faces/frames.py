"""Messages between the decoder and its child: a JSON head and raw bytes behind it.

Each message is two lengths (head, body; little-endian u32), the head, the body.
"""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTHS = struct.Struct("<II")


def pack(head: dict[str, Any], body_length: int = 0) -> bytes:
    """The lengths and the head of a message; its body is written after it."""
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(encoded), body_length) + encoded


def unpack_head(encoded: bytes) -> dict[str, Any]:
    """The head of a message. Raises ValueError when it is not a JSON object."""
    head = json.loads(encoded)
    if not isinstance(head, dict):
        raise ValueError("a message's head must be an object")
    return head
