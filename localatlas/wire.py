"""The MongoDB wire protocol as values: bytes in, messages out. No sockets, no waiting.

Format: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

OP_REPLY = 1
OP_QUERY = 2004
OP_MSG = 2013

CHECKSUM_PRESENT = 1 << 0
MORE_TO_COME = 1 << 1
EXHAUST_ALLOWED = 1 << 16

HEADER_SIZE = 16
NOT_PRIMARY = frozenset({91, 189, 10058, 10107, 11600, 11602, 13435, 13436})
"""What a server says that is no primary, is stepping down or is ending."""
LARGE = 256 * 1024
MAX_MESSAGE_SIZE = 48_000_000  # what every mongod announces as maxMessageSizeBytes
_PREFIX_SIZE = 96  # header, flags, section kind, document length, type and a command name

_HEADER = struct.Struct("<iiii")
_INT = struct.Struct("<i")
_UINT = struct.Struct("<I")
_REPLY = struct.Struct("<Iqii")

# Numbers, dates and UUIDs must survive decoding and encoding exactly as they came.
EXACT: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


class WireError(ValueError):
    """These bytes are not a message of the MongoDB wire protocol."""


class ChecksumError(WireError):
    """The bytes changed on their way."""


@dataclass(frozen=True, slots=True)
class Header:
    """The 16 bytes before every message; `length` includes them."""

    length: int
    request_id: int
    response_to: int
    op_code: int


@dataclass(frozen=True, slots=True)
class Request:
    """A command as a client sent it, its document sequences folded into the body.

    `large` says that to look through it may take long enough for others to notice.
    """

    request_id: int
    flags: int
    body: dict[str, Any]
    large: bool = False

    @property
    def wants_reply(self) -> bool:
        return not self.flags & MORE_TO_COME


def header(data: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """The header at `offset`; WireError when its length cannot be a message's."""
    found = Header(*_HEADER.unpack_from(data, offset))
    if not HEADER_SIZE <= found.length <= MAX_MESSAGE_SIZE:
        raise WireError("a message length is out of bounds")
    return found


def command_name(data: bytes | bytearray | memoryview, length: int) -> str | None:
    """The command's name from a message's first bytes, or None when more bytes are needed.

    "" means that the name does not stand at the front (a document sequence does): the whole message
    has to be read. `length` is the message's own length.
    """
    window = bytes(data[: min(length, _PREFIX_SIZE)])
    complete = len(data) >= length or len(window) == _PREFIX_SIZE
    (op_code,) = _INT.unpack_from(window, 12)
    at = 20
    if op_code == OP_QUERY:
        end = window.find(b"\0", at)
        if end < 0:
            return "" if complete else None
        at = end + 1 + 8
    elif len(window) > at and window[at] != 0:
        return ""
    else:
        at += 1
    start = at + 5  # document length and the first element's type
    end = window.find(b"\0", start)
    if end < 0:
        return "" if complete else None
    return window[start:end].decode("utf-8", "replace")


def parse_request(message: bytes | bytearray) -> Request:
    """The command of a whole OP_MSG; WireError when it is malformed or its checksum is wrong."""
    head = header(message)
    if head.op_code != OP_MSG or len(message) != head.length or head.length < 21:
        raise WireError("not a whole OP_MSG")
    (flags,) = _UINT.unpack_from(message, 16)
    end = head.length
    if flags & CHECKSUM_PRESENT:
        end -= 4
        if _UINT.unpack_from(message, end)[0] != crc32c(bytes(message[:end])):
            raise ChecksumError("the checksum does not match")
    body: dict[str, Any] | None = None
    sequences: dict[str, list[dict[str, Any]]] = {}
    view, at = memoryview(message), 20
    try:
        while at < end:
            kind = view[at]
            at += 1
            size = _INT.unpack_from(view, at)[0]
            if size < 5 or at + size > end:
                raise WireError("a section's length is out of bounds")
            if kind == 0 and body is None:
                body = bson.decode(view[at : at + size], EXACT)
            elif kind == 1:
                name, documents = _sequence(bytes(view[at + 4 : at + size]))
                sequences[name] = documents
            else:
                raise WireError("a section's kind is unknown or doubled")
            at += size
    except (BSONError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise WireError("a section is not valid BSON") from error
    if body is None:
        raise WireError("the message has no body")
    return Request(head.request_id, flags, body | sequences, len(message) > LARGE)


def _sequence(data: bytes) -> tuple[str, list[dict[str, Any]]]:
    end = data.index(b"\0") if b"\0" in data else -1
    if end < 0:
        raise WireError("a document sequence has no name")
    return data[:end].decode(), bson.decode_all(data[end + 1 :], EXACT)


def message(
    body: Mapping[str, Any] | RawBSONDocument,
    *,
    request_id: int,
    response_to: int = 0,
    flags: int = 0,
) -> bytes:
    """A whole OP_MSG with one body section and, where `flags` ask for it, its checksum."""
    document = body.raw if isinstance(body, RawBSONDocument) else bson.encode(body)
    length = 21 + len(document) + (4 if flags & CHECKSUM_PRESENT else 0)
    data = (
        _HEADER.pack(length, request_id, response_to, OP_MSG) + _UINT.pack(flags) + b"\0" + document
    )
    return data + _UINT.pack(crc32c(data)) if flags & CHECKSUM_PRESENT else data


def reply_body(data: bytes | bytearray) -> dict[str, Any]:
    """The document of a whole reply, OP_MSG or the legacy OP_REPLY."""
    head = header(data)
    try:
        if head.op_code == OP_MSG:
            return parse_request(data).body
        if head.op_code == OP_REPLY and head.length > HEADER_SIZE + _REPLY.size:
            return bson.decode(bytes(data[HEADER_SIZE + _REPLY.size :]), EXACT)
    except (BSONError, RecursionError) as error:
        raise WireError("a reply is not valid BSON") from error
    raise WireError("a reply is neither OP_MSG nor OP_REPLY")


def with_body(data: bytes | bytearray, body: Mapping[str, Any]) -> bytes:
    """The reply `data` with another document, its ids, flags and kind kept, checksum recomputed."""
    head = header(data)
    if head.op_code == OP_MSG:
        (flags,) = _UINT.unpack_from(data, 16)
        return message(body, request_id=head.request_id, response_to=head.response_to, flags=flags)
    document = bson.encode(body)
    fixed = bytes(data[HEADER_SIZE : HEADER_SIZE + _REPLY.size])
    length = HEADER_SIZE + len(fixed) + len(document)
    return _HEADER.pack(length, head.request_id, head.response_to, OP_REPLY) + fixed + document


def with_topology(data: bytes, topology: Mapping[str, Any]) -> bytes:
    """The reply `data`; an error that says that this is no primary names the topology it is of.

    Servers say so, and a driver that is not told looks the other way until its next hello: up to
    10 seconds. The embedded engine leaves it out of errors that `failCommand` makes.
    """
    if b"\x10code\0" not in data or b"topologyVersion" in data:
        return data
    try:
        body = reply_body(data)
    except WireError:
        return data  # a document of the client's own, which is its business
    if body.get("ok") or body.get("code") not in NOT_PRIMARY:
        return data
    return with_body(data, {**body, "topologyVersion": topology})


def rewritten_hello(body: dict[str, Any], address: str) -> dict[str, Any]:
    """A hello reply that keeps a driver on `address` and offers no compression."""
    changed = {key: value for key, value in body.items() if key != "compression"}
    if "hosts" in changed:
        changed |= {"hosts": [address], "passives": [], "arbiters": []}
    for key in ("me", "primary"):
        if key in changed:
            changed[key] = address
    return changed


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of `data`, the checksum of OP_MSG."""
    crc = 0xFFFFFFFF
    table = _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
