"""multipart/form-data in memory: parts by name, with caps on their number and sizes.

Nothing is spooled to disk and no file name is kept: what a part is depends on its field name, what
a picture is on its bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app import problems
from faces.errors import ImageTooLarge, InvalidRequest, MalformedRequest, RequestTooLarge

MAX_PARTS = 64
MAX_TEXT = 64 * 1024
"""Bytes of all parts that are not pictures, together."""


@dataclass(slots=True)
class Parts:
    """What a body held: pictures as bytes, everything else as text."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class PartsReader:
    """Takes the body in chunks and yields its `Parts`.

    `pictures` are the field names that hold one, each of at most `picture_cap` bytes, `known` all
    names that the form may have: a picture under another name is told so.
    """

    def __init__(
        self,
        content_type: bytes,
        *,
        pictures: Collection[str],
        known: Sequence[str],
        picture_cap: int,
    ) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary or len(boundary) > 200:
            raise MalformedRequest("The multipart content type has no usable boundary.")
        self._pictures = frozenset(pictures)
        self._known = known
        self._picture_cap = picture_cap
        self._done = False
        self._names: set[str] = set()
        self._count = 0
        self._text_left = MAX_TEXT
        self._parts = Parts()
        self._header = [bytearray(), bytearray()]
        self._disposition = b""
        self._name = ""
        self._data = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_end": self._end,
                },
            )
        except (FormParserError, ValueError):
            raise MalformedRequest("The multipart content type has no usable boundary.") from None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Raises MalformedRequest or what a cap calls for."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise MalformedRequest("The multipart body cannot be parsed.") from None

    def finish(self) -> Parts:
        """The parts, once the whole body was fed. Raises MalformedRequest when it breaks off."""
        if not self._done:
            raise MalformedRequest("The multipart body ends before its closing boundary.")
        return self._parts

    def close(self) -> None:
        """Let go of what has come: parser and reader know each other, so they stay for a while."""
        self._data = bytearray()
        self._parts = Parts()

    def _part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise MalformedRequest(f"The multipart body has more than {MAX_PARTS} parts.")
        self._disposition = b""
        self._header = [bytearray(), bytearray()]
        self._data = bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = [bytearray(), bytearray()]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        try:
            name = options[b"name"].decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            raise MalformedRequest("A part of the multipart body has no field name.") from None
        if name in self._names:
            known = name if name in self._pictures else "body"
            raise InvalidRequest.field(known, "the same field was sent twice")
        self._names.add(name)
        self._name = name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        size = end - start
        if self._name in self._pictures:
            if len(self._data) + size > self._picture_cap:
                raise ImageTooLarge(f"{self._name}: more than {self._picture_cap} bytes.")
        else:
            self._text_left -= size
            if self._text_left < 0:
                self._check_name()
                raise RequestTooLarge(
                    f"The parts that are not pictures hold more than {MAX_TEXT} bytes together."
                )
        self._data += data[start:end]

    def _part_end(self) -> None:
        if self._name in self._pictures:
            self._parts.pictures[self._name] = bytes(self._data)
            return
        try:
            self._parts.texts[self._name] = self._data.decode("utf-8")
        except UnicodeDecodeError:
            self._check_name()
            raise InvalidRequest.field(self._name, "is not UTF-8 text") from None

    def _check_name(self) -> None:
        """Raises InvalidRequest when what is wrong with the part is its name."""
        if self._name not in self._known:
            raise InvalidRequest.field("body", problems.unknown(self._known)) from None

    def _end(self) -> None:
        self._done = True
