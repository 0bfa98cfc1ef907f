"""The file in which an index sleeps: a BSON header, then the arrays as they lie in memory.

    8 bytes magic, 4 bytes length and 4 bytes CRC-32 of the header, header, sections

The header names the definition, the caller's `about` document and each section with its type,
shape and CRC-32. Writing goes to a file beside it that then takes its name, so a crash leaves the
old one.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from bson import CodecOptions, decode, encode
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError
from numpy.typing import NDArray

from localatlas.blocks import HEADS, Block

MAGIC = b"LAVECT04"
LEAD = struct.Struct("<8sII")
# As documents are decoded for the index: dates of any year, UUIDs as binary.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    # A string that is no UTF-8 must not stop an index.
    unicode_decode_error_handler="replace",
)


class StaleFileError(Exception):
    """The vector file is damaged, or of another definition or version; build the index anew."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A filter column at rest: arrays by name, and the distinct strings."""

    arrays: dict[str, NDArray[Any]]
    strings: Sequence[str]


@dataclass(frozen=True, slots=True)
class TableContents:
    """Everything a table holds: ids by row, blocks by (path, kind), columns by path."""

    ids: list[Any]
    blocks: dict[tuple[str, str], tuple[Block, ...]]
    columns: dict[str, Frozen]


def write_vector_file(
    path: Path,
    definition: Mapping[str, Any],
    about: Mapping[str, Any],
    tables: Mapping[str, TableContents],
) -> None:
    """Write `tables` to `path` and force them to the disk; raises OSError."""
    sections: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    for name, contents in tables.items():
        sections += _sections(name, contents, parts)
    header = encode({"definition": definition, "about": about, "sections": sections})
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(LEAD.pack(MAGIC, len(header), zlib.crc32(header)))
            file.write(header)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sections(
    table: str, contents: TableContents, parts: list[memoryview]
) -> Iterator[dict[str, Any]]:
    """Yield the header's account of the table, and append its bytes to `parts`."""

    def add(array: NDArray[Any]) -> dict[str, Any]:
        data = _bytes(np.ascontiguousarray(array))
        parts.append(data)
        return {"dtype": array.dtype.str, "shape": list(array.shape), "crc": zlib.crc32(data)}

    def add_document(document: Mapping[str, Any]) -> dict[str, Any]:
        return add(np.frombuffer(encode(document), np.uint8))

    yield {"table": table, "what": "ids", **add_document({"ids": contents.ids})}
    for (field, kind), blocks in contents.blocks.items():
        for block in blocks:
            tails = [] if block.tails is None else [block.tails]
            arrays = [add(array) for array in (block.lengths, block.rows, block.heads, *tails)]
            yield {"table": table, "what": "block", "path": field, "kind": kind, "arrays": arrays}
    for field, column in contents.columns.items():
        yield {
            "table": table,
            "what": "column",
            "path": field,
            "names": list(column.arrays),
            "arrays": [add(array) for array in column.arrays.values()],
            "strings": add_document({"strings": list(column.strings)}),
        }


def read_about(path: Path) -> dict[str, Any]:
    """Return the `about` document of the file without the vectors; raises as reading does."""
    with path.open("rb") as file:
        about: dict[str, Any] = _header(file)["about"]
    return about


def read_vector_file(
    path: Path, definition: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, TableContents]]:
    """Return `about` and the tables of the file at `path`.

    Raises FileNotFoundError, or StaleFileError when a checksum or the definition does not match.
    """
    with path.open("rb") as file:
        header = _header(file)
        if header["definition"] != definition:
            raise StaleFileError(f"{path.name} belongs to another definition of the index")
        tables: dict[str, TableContents] = {}
        for section in header["sections"]:
            table = tables.setdefault(section["table"], TableContents([], {}, {}))
            match section["what"]:
                case "ids":
                    table.ids.extend(_document(file, section)["ids"])
                case "block":
                    key = (section["path"], section["kind"])
                    lengths, rows, heads, *rest = (_array(file, each) for each in section["arrays"])
                    if heads.dtype != HEADS[key[1]]:
                        raise StaleFileError(f"{path.name} holds vectors of an unknown type")
                    block = Block(heads, rest[0] if rest else None, lengths, rows)
                    table.blocks[key] = (*table.blocks.get(key, ()), block)
                case "column":
                    arrays = [_array(file, each) for each in section["arrays"]]
                    strings = _document(file, section["strings"])["strings"]
                    named = dict(zip(section["names"], arrays, strict=True))
                    table.columns[section["path"]] = Frozen(named, strings)
    return header["about"], tables


def _header(file: BinaryIO) -> dict[str, Any]:
    lead = file.read(LEAD.size)
    if len(lead) < LEAD.size:
        raise StaleFileError("the vector file is cut short")
    magic, size, checksum = LEAD.unpack(lead)
    if magic != MAGIC:
        raise StaleFileError("the vector file is of another version")
    header = file.read(size)
    if zlib.crc32(header) != checksum:
        raise StaleFileError("the header of the vector file is damaged")
    return decode(header, CODEC)


def _array(file: BinaryIO, section: Mapping[str, Any]) -> NDArray[Any]:
    array = np.empty(section["shape"], section["dtype"])
    if array.size:
        view = _bytes(array)
        if file.readinto(view) != len(view):  # type: ignore[attr-defined] # buffered files have it
            raise StaleFileError("the vector file is cut short")
        if zlib.crc32(view) != section["crc"]:
            raise StaleFileError("a section of the vector file is damaged")
    return array


def _bytes(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _document(file: BinaryIO, section: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return decode(_array(file, section).tobytes(), CODEC)
    except BSONError as error:
        raise StaleFileError("a section of the vector file is damaged") from error
