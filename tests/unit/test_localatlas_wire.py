"""The wire protocol as values."""

from __future__ import annotations

import struct
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localatlas import wire

keys = st.text("abcdefgh", min_size=1, max_size=6)
values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.booleans(), st.none())
bodies = st.dictionaries(keys, values, min_size=1, max_size=6)


@given(bodies, st.integers(0, 2**31 - 1), st.sampled_from([0, wire.CHECKSUM_PRESENT]))
def test_a_message_reads_as_it_was_written(body: dict[str, Any], number: int, flags: int) -> None:
    data = wire.message(body, request_id=number, flags=flags)
    request = wire.parse_request(data)
    assert (request.request_id, request.flags, request.body) == (number, flags, body)


@given(bodies, st.integers(16, 200))
def test_the_name_is_found_as_soon_as_it_is_there(body: dict[str, Any], cut: int) -> None:
    data = wire.message(body, request_id=1)
    found = wire.command_name(data[:cut], len(data))
    assert found in (None, next(iter(body)))
    assert wire.command_name(data, len(data)) == next(iter(body))


@given(st.binary(min_size=16, max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        wire.header(data)
        wire.command_name(data, len(data))
        wire.parse_request(data)
    except wire.WireError:
        return


@given(bodies, st.integers(21, 400), st.integers(0, 255))
def test_a_damaged_message_is_a_message_or_an_error(
    body: dict[str, Any], position: int, value: int
) -> None:
    data = bytearray(wire.message(body, request_id=1))
    data[position % len(data)] = value
    try:
        wire.parse_request(data)
    except wire.WireError:
        return


def test_a_document_nested_without_end_is_an_error() -> None:
    nested = b"\x05\0\0\0\0"
    for _ in range(20_000):
        nested = struct.pack("<i", len(nested) + 8) + b"\x03a\0" + nested + b"\0"
    data = struct.pack("<iiiiIB", 21 + len(nested), 7, 0, wire.OP_MSG, 0, 0) + nested
    with pytest.raises(wire.WireError):
        wire.parse_request(data)


@pytest.mark.parametrize("length", [-1, 0, 15, 48_000_001, 2**31 - 1])
def test_a_length_out_of_bounds_is_an_error(length: int) -> None:
    with pytest.raises(wire.WireError):
        wire.header(struct.pack("<iiii", length, 1, 0, wire.OP_MSG))


def test_sequences_become_fields_of_the_body() -> None:
    documents = b"documents\0" + bson.encode({"_id": 1}) + bson.encode({"_id": 2})
    sections = b"\1" + struct.pack("<i", 4 + len(documents)) + documents
    sections += b"\0" + bson.encode({"insert": "c"})
    data = struct.pack("<iiiiI", 20 + len(sections), 7, 0, wire.OP_MSG, 0) + sections
    assert wire.parse_request(data).body == {"insert": "c", "documents": [{"_id": 1}, {"_id": 2}]}
    assert wire.command_name(data, len(data)) == ""


def test_a_hello_names_the_front_wherever_it_names_the_server() -> None:
    hello = {
        "hosts": ["a:1", "b:2"],
        "passives": ["c:3"],
        "me": "a:1",
        "primary": "b:2",
        "compression": ["zstd"],
        "setName": "set",
    }
    assert wire.rewritten_hello(hello, "front:9") == {
        "hosts": ["front:9"],
        "passives": [],
        "arbiters": [],
        "me": "front:9",
        "primary": "front:9",
        "setName": "set",
    }
    assert wire.rewritten_hello({"ok": 1.0}, "front:9") == {"ok": 1.0}


def test_a_rewritten_reply_keeps_its_ids_and_gets_a_fresh_checksum() -> None:
    data = wire.message(
        {"a": 1},
        request_id=5,
        response_to=6,
        flags=wire.CHECKSUM_PRESENT | wire.MORE_TO_COME,
    )
    changed = wire.with_body(data, {"b": "longer than before"})
    head = wire.header(changed)
    assert (head.length, head.request_id, head.response_to) == (len(changed), 5, 6)
    assert wire.reply_body(changed) == {"b": "longer than before"}


def test_a_reply_with_a_document_that_cannot_be_read_passes_as_it_is() -> None:
    data = wire.message({"code": 1, "text": "odd"}, request_id=7).replace(b"odd", b"\xff\xfe\xfd")

    assert wire.with_topology(data, {"counter": 1}) == data
