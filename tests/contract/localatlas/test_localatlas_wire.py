"""The front on the wire: every kind of message passes, nonsense ends its own connection only."""

from __future__ import annotations

import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from localatlas import wire

Address = tuple[str, int]


@pytest.fixture
def address(atlas: str) -> Address:
    (node,) = parse_uri(atlas)["nodelist"]
    return node


@pytest.fixture
def peer(address: Address) -> Iterator[Peer]:
    with Peer(address) as connected:
        yield connected


class Peer:
    """A bare connection."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self._ids = iter(range(1, 1 << 30))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, body: dict[str, Any], flags: int = 0) -> int:
        number = next(self._ids)
        self.socket.sendall(
            wire.message({**body, "$db": body.get("$db", "admin")}, request_id=number, flags=flags)
        )
        return number

    def receive(self) -> tuple[wire.Header, int, dict[str, Any]]:
        data = self._exactly(16)
        head = wire.header(data)
        data += self._exactly(head.length - 16)
        return head, struct.unpack_from("<I", data, 16)[0], wire.reply_body(data)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        number = self.send(body)
        head, _, reply = self.receive()
        assert head.response_to == number
        return reply

    def closed(self) -> bool:
        """Whether the other side hangs up without a word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack("<iiii", -1, 1, 0, 2013),
        struct.pack("<iiii", 2**31 - 1, 1, 0, 2013) + b"x" * 64,
        struct.pack("<iiii", 48_000_001, 1, 0, 2013) + b"x" * 64,
        struct.pack("<iiii", 15, 1, 0, 2013),
        struct.pack("<iiii", 0, 0, 0, 0),
        struct.pack("<iiii", 64, 1, 0, 9999) + b"x" * 48,
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x99" * 64,
    ],
    ids=["negative", "2GB", "over48MB", "short", "zeros", "opcode", "http", "tls"],
)
def test_nonsense_closes_that_connection_only(
    peer: Peer, address: Address, nonsense: bytes
) -> None:
    with Peer(address) as other:
        assert other.ask({"ping": 1})["ok"] == 1
        peer.socket.sendall(nonsense)
        assert peer.closed()
        assert other.ask({"ping": 1})["ok"] == 1


@pytest.mark.parametrize("cut", [1, 15, 16, 20, 25, 40])
def test_a_client_that_dies_in_a_message_disturbs_nobody(
    peer: Peer, address: Address, cut: int
) -> None:
    whole = wire.message(
        {"aggregate": "c", "pipeline": [{"$vectorSearch": {}}], "$db": "d"}, request_id=1
    )
    peer.socket.sendall(whole[:cut])
    peer.socket.close()
    with Peer(address) as other:
        assert other.ask({"ping": 1})["ok"] == 1


@pytest.mark.parametrize("command", ["find", "insert", "hello", "aggregate"])
@pytest.mark.parametrize("cut", [30, -3])
def test_a_client_that_dies_in_a_message_leaves_no_connection(
    peer: Peer, command: str, cut: int
) -> None:
    whole = wire.message({command: "c", "$db": "d"}, request_id=1)
    peer.socket.sendall(whole[:cut])
    peer.socket.shutdown(socket.SHUT_WR)  # what the front sees of a client that has ended
    assert peer.closed()


def test_broken_documents_in_our_commands_do_not_reach_others(address: Address) -> None:
    whole = bytearray(
        wire.message(
            {"aggregate": "c", "pipeline": [{"$vectorSearch": {}}], "cursor": {}, "$db": "d"},
            request_id=1,
        )
    )
    for position in range(21, len(whole), 3):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        with Peer(address) as one:
            one.socket.sendall(broken)
    with Peer(address) as other:
        assert other.ask({"ping": 1})["ok"] == 1


def test_a_command_that_cannot_be_read_gets_an_error_and_the_connection_stays(peer: Peer) -> None:
    whole = bytearray(
        wire.message(
            {"aggregate": "c", "pipeline": [{"$vectorSearch": {}}], "cursor": {}, "$db": "d"},
            request_id=1,
        )
    )
    whole[whole.index(b"cursor") - 1] = 0x7E  # no such type
    peer.socket.sendall(whole)
    assert peer.receive()[2]["ok"] == 0
    assert peer.ask({"ping": 1})["ok"] == 1


def test_others_do_not_wait_for_a_search_with_a_huge_filter(
    peer: Peer, address: Address, database: Database[Any]
) -> None:
    database.c.insert_one({"_id": 1})
    stage: dict[str, Any] = {"index": "vs", "path": "v", "queryVector": [1], "limit": 1}
    stage["exact"] = True
    stage["filter"] = {"$or": [{"t": 1}] * 60_000}
    peer.send({"aggregate": "c", "pipeline": [{"$vectorSearch": stage}], "cursor": {}})
    answered = 0
    with Peer(address) as other:
        while not select.select([peer.socket], [], [], 0)[0]:
            assert other.ask({"ping": 1})["ok"] == 1
            answered += 1
    assert peer.receive()[2]["ok"] == 1
    assert answered > 9


def test_a_database_that_cannot_be_is_told_as_the_backend_tells_it(peer: Peer) -> None:
    stage: dict[str, Any] = {"index": "vs", "path": "v", "queryVector": [1], "limit": 1}
    stage["exact"] = True
    name = "x" * 1000
    search = {"aggregate": "c", "pipeline": [{"$vectorSearch": stage}], "cursor": {}, "$db": name}
    found = peer.ask({"listCollections": 1, "$db": name})
    assert peer.ask(search)["code"] == found["code"]


def test_pipelined_requests_are_answered_in_order(peer: Peer, database: Database[Any]) -> None:
    database.c.insert_many([{"_id": n} for n in range(3)])
    search = {
        "aggregate": "c",
        "pipeline": [{"$listSearchIndexes": {}}],
        "cursor": {},
        "$db": database.name,
    }
    find = {"find": "c", "filter": {}, "$db": database.name}
    sent = [peer.send(body) for body in [find, search, {"ping": 1}, search, find] * 20]
    replies = [peer.receive() for _ in sent]
    assert [head.response_to for head, _, _ in replies] == sent
    assert all(reply["ok"] == 1 for _, _, reply in replies)


def test_a_request_that_comes_byte_by_byte_is_read(peer: Peer, database: Database[Any]) -> None:
    for body in (
        {"ping": 1, "$db": "admin"},
        {"hello": 1, "$db": "admin"},
        {
            "aggregate": "c",
            "pipeline": [{"$listSearchIndexes": {}}],
            "cursor": {},
            "$db": database.name,
        },
    ):
        for byte in wire.message(body, request_id=77):
            peer.socket.sendall(bytes([byte]))
        head, _, reply = peer.receive()
        assert (head.response_to, reply["ok"]) == (77, 1)


@pytest.mark.parametrize("order", ["body first", "documents first"])
def test_document_sequences_pass(peer: Peer, database: Database[Any], order: str) -> None:
    body = b"\0" + bson.encode({"insert": "c", "$db": database.name})
    documents = b"documents\0" + bson.encode({"_id": 1}) + bson.encode({"_id": 2})
    sequence = b"\1" + struct.pack("<i", 4 + len(documents)) + documents
    sections = body + sequence if order == "body first" else sequence + body
    payload = struct.pack("<I", 0) + sections
    peer.socket.sendall(struct.pack("<iiii", 16 + len(payload), 5, 0, 2013) + payload)
    head, _, reply = peer.receive()
    assert (head.response_to, reply["n"]) == (5, 2)
    assert database.c.count_documents({}) == 2


def test_checksums_are_checked_and_given_where_the_front_answers(
    peer: Peer, address: Address, database: Database[Any]
) -> None:
    database.c.insert_one({})
    body = {
        "aggregate": "c",
        "pipeline": [{"$listSearchIndexes": {}}],
        "cursor": {},
        "$db": database.name,
    }
    peer.send(body, flags=wire.CHECKSUM_PRESENT)
    _, flags, reply = peer.receive()
    assert reply["ok"] == 1
    assert flags & wire.CHECKSUM_PRESENT
    with Peer(address) as wrong:
        message = bytearray(wire.message(body, request_id=1, flags=wire.CHECKSUM_PRESENT))
        message[-1] ^= 1
        wrong.socket.sendall(message)
        assert wrong.closed()


def test_crc32c_has_its_published_values() -> None:
    assert wire.crc32c(b"") == 0
    assert wire.crc32c(b"123456789") == 0xE3069283
    assert wire.crc32c(b"\0" * 32) == 0x8A9136AA


def test_a_client_that_only_listens_any_more_gets_its_replies(
    peer: Peer, database: Database[Any]
) -> None:
    database.c.insert_one({"_id": 1})
    listing = {"aggregate": "c", "pipeline": [{"$listSearchIndexes": {}}], "cursor": {}}
    sent = [
        peer.send({"find": "c", "filter": {}, "$db": database.name}),
        peer.send({**listing, "$db": database.name}),
        peer.send({"ping": 1}),
    ]
    peer.socket.shutdown(socket.SHUT_WR)
    assert [peer.receive()[0].response_to for _ in sent] == sent
    assert peer.closed()


def test_unacknowledged_writes_get_no_reply(peer: Peer, database: Database[Any]) -> None:
    peer.send(
        {
            "insert": "c",
            "documents": [{"_id": 1}],
            "writeConcern": {"w": 0},
            "$db": database.name,
        },
        flags=wire.MORE_TO_COME,
    )
    assert peer.ask({"ping": 1})["ok"] == 1
    assert database.c.count_documents({}) == 1


def test_a_broken_request_that_wants_no_reply_leaves_the_connection_usable(
    peer: Peer, database: Database[Any]
) -> None:
    broken = bytearray(wire.message({"find": "c", "x": "abc"}, request_id=5, flags=2))
    broken[broken.index(b"abc")] = 0xD8  # no UTF-8
    peer.socket.sendall(broken)
    number = peer.send({"ping": 1})
    while peer.receive()[0].response_to != number:
        pass  # the embedded engine answers it all the same
    listing = {"aggregate": "c", "pipeline": [{"$listSearchIndexes": {}}], "cursor": {}}
    assert peer.ask({**listing, "$db": database.name})["ok"] == 1


@pytest.mark.parametrize("command", ["hello", "isMaster", "ismaster"])
def test_every_hello_names_the_front_and_no_compression(
    peer: Peer, address: Address, command: str
) -> None:
    named = f"{address[0]}:{address[1]}"
    hello = peer.ask({command: 1, "compression": ["zlib", "snappy", "zstd"]})
    assert (hello["hosts"], hello["me"], hello["primary"]) == ([named], named, named)
    assert "compression" not in hello


def test_the_legacy_hello_is_rewritten_too(peer: Peer, address: Address) -> None:
    query = struct.pack("<I", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1)
    query += bson.encode({"isMaster": 1, "helloOk": True})
    peer.socket.sendall(struct.pack("<iiii", 16 + len(query), 9, 0, 2004) + query)
    head, _, hello = peer.receive()
    assert (head.op_code, head.response_to) == (wire.OP_REPLY, 9)
    assert hello["hosts"] == [f"{address[0]}:{address[1]}"]


def test_a_streamed_hello_is_rewritten_in_every_reply(peer: Peer, address: Address) -> None:
    version = peer.ask({"hello": 1})["topologyVersion"]
    peer.send(
        {"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": bson.Int64(100)},
        flags=wire.EXHAUST_ALLOWED,
    )
    for _ in range(3):
        _, flags, hello = peer.receive()
        assert flags & wire.MORE_TO_COME
        assert hello["hosts"] == [f"{address[0]}:{address[1]}"]


def test_a_driver_that_discovers_the_set_stays_on_the_front(atlas: str, address: Address) -> None:
    uri = f"mongodb://{address[0]}:{address[1]}/?replicaSet=secantus&heartbeatFrequencyMS=500"
    with MongoClient[dict[str, Any]](uri) as client:
        for _ in range(5):
            assert client.admin.command("ping")["ok"] == 1
            time.sleep(0.3)
        assert client.nodes == {address}


def test_large_messages_pass_both_ways(database: Database[Any]) -> None:
    blob = b"\x5a" * (15 * 1024 * 1024)
    database.c.insert_many([{"_id": n, "blob": blob} for n in range(3)])  # one message of 45 MB
    assert [one["blob"] for one in database.c.find(batch_size=3)] == [blob] * 3


@pytest.fixture
def files() -> Iterator[int]:
    """So many files this process may have open, as many as the machine lets it."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    yield files
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_five_hundred_idle_and_fifty_busy_connections(
    address: Address, database: Database[Any], files: int
) -> None:
    database.c.insert_many([{"_id": n} for n in range(10)])
    idle: list[Peer] = []
    try:
        # The front takes two files for each.
        idle.extend(Peer(address) for _ in range(min(500, max(1, (files - 400) // 2))))
        for one in idle:
            one.send({"hello": 1})
        for one in idle:
            assert one.receive()[2]["ok"] == 1
        failures: list[object] = []

        def work() -> None:
            try:
                with Peer(address) as busy:
                    for _ in range(20):
                        reply = busy.ask({"find": "c", "filter": {}, "$db": database.name})
                        assert len(reply["cursor"]["firstBatch"]) == 10
            except (AssertionError, OSError) as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert idle[-1].ask({"ping": 1})["ok"] == 1
    finally:
        for one in idle:
            one.socket.close()


def test_connections_are_no_startup_warnings(database: Database[Any]) -> None:
    reply = database.client.admin.command("getLog", "startupWarnings")

    assert reply["log"] == []
