"""As much of MongoDB's wire protocol as the fault proxy needs: messages and commands' names."""

from __future__ import annotations

import asyncio
import struct

import bson

HEADER = struct.Struct("<iiii")
OP_MSG = 2013
_BODY = HEADER.size + 5
"""Flags and the kind of the first section stand before a message's body."""


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """The next whole message. Raises asyncio.IncompleteReadError at the end of the connection."""
    head = await reader.readexactly(HEADER.size)
    return head + await reader.readexactly(HEADER.unpack(head)[0] - HEADER.size)


def command_of(message: bytes) -> str:
    """The name of the command that a message carries; empty when it carries none."""
    if HEADER.unpack_from(message)[3] != OP_MSG or message[_BODY - 1] != 0:
        return ""
    start = _BODY + 5  # the body's length and its first element's type
    return message[start : message.index(b"\0", start)].decode()


def error_reply(message: bytes, code: int) -> bytes:
    """The answer to a command that says that it failed with `code`."""
    body = bson.encode({"ok": 0.0, "errmsg": "made up by the fault proxy", "code": code})
    request = HEADER.unpack_from(message)[1]
    length = _BODY + len(body)
    return HEADER.pack(length, 1, request, OP_MSG) + b"\0\0\0\0" + b"\0" + body
