"""The database fails one command in every way, each command that a session sends in its turn.

The engine's own `failCommand` fails it with an error, by a closed connection and by a wait. What
the engine cannot do is done by the proxy before it: closing the connection once a command has been
carried out, and failing the commands that its front answers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bench.fault_kills import MODELS
from bench.fault_ledger import Client
from bench.fault_system import Wrong, eventually
from bench.fault_work import other_listing, person, some_work

NOT_PRIMARY, WRITE_CONFLICT = 10107, 112
WHILE_S = 3.0
MANY = 130
"""More documents than the server's first batch holds."""
Drive = Callable[[Client, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail a command: by the engine with `data`, or by the proxy with `kind`."""

    name: str
    data: Mapping[str, object] | None = None
    kind: str = ""


ENGINE = (
    Fault("not primary", {"errorCode": NOT_PRIMARY}),
    Fault("write conflict", {"errorCode": WRITE_CONFLICT}),
    Fault("closed before", {"closeConnection": True}),
    Fault("closed after", kind="unanswered"),
    Fault("late", {"blockConnection": True, "blockTimeMS": 2500}),
)
FRONT = (
    Fault("not primary", kind="error"),
    Fault("closed before", kind="unsent"),
    Fault("closed after", kind="unanswered"),
    Fault("late", kind="late"),
)
TIMES: Mapping[str, int] = {"once": 1, "twice": 2, "for a while": 0}


def working(client: Client, chance: random.Random) -> None:
    """A bit of everything that clients do, and a reconcile."""
    other_listing(client, chance)
    client.start("backfill")
    some_work(client, chance)
    person(client, chance)
    colliding(client, chance)


def colliding(client: Client, chance: random.Random) -> None:
    """One item written by several at once: all but one begin their transaction anew."""
    photo = chance.choice(sorted(client.photos))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: client.put("own-0", photo), range(4)))


def many(client: Client, chance: random.Random) -> None:
    """A reconcile of more items than one batch of an answer holds."""
    photos = sorted(client.photos)
    if len(client.system.listed) < MANY:
        listed = {f"cms-{number}": photos[number % len(photos)] for number in range(MANY)}
        client.system.list(listed, client.photos)
    client.start("backfill")
    some_work(client, chance)


def few(client: Client, chance: random.Random) -> None:
    """Back to a short listing, which the brake holds up unless it is allowed."""
    listed = dict(list(client.system.listed.items())[:10])
    client.system.list(listed, client.photos)
    client.system.run("indexer", "once", "--allow-deletes")


def migrating(client: Client, chance: random.Random) -> None:
    """`migrations up` of an empty database: may fail, and then says why in a sentence."""
    run, name = client.system.run, f"{client.system.db.name}-{chance.randrange(1_000_000)}"
    try:
        run("migrations", "up", check=False, MONGODB_DATABASE=name)
        run("migrations", "up", check=False, MONGODB_DATABASE=name)
    finally:
        client.system.client.drop_database(name)


def dropping(client: Client, chance: random.Random) -> None:
    """Another model is prepared and dropped again: may fail, and then goes on the next time."""
    run = client.system.run
    there = next(key for key in MODELS if key != client.system.active_model())
    run("migrations", "model", there, "--no-flip", check=False)
    run("migrations", "model", "prune", check=False)


COMMANDS: Mapping[str, tuple[Sequence[Fault], Drive]] = {
    "abortTransaction": (ENGINE, working),
    "aggregate": (ENGINE, working),
    "bulkWrite": (ENGINE, working),
    "commitTransaction": (ENGINE, working),
    "delete": (ENGINE, working),
    "find": (ENGINE, working),
    "findAndModify": (ENGINE, working),
    "getMore": (ENGINE, many),
    "hello": (FRONT, working),
    "insert": (ENGINE, working),
    "update": (ENGINE, working),
    "create": (ENGINE, migrating),
    "createIndexes": (ENGINE, migrating),
    "createSearchIndexes": (FRONT, migrating),
    "dropSearchIndex": (FRONT, dropping),
}
"""Every command that the service sends, and what makes it send it; `endSessions` needs no answer.

`uncovered` compares with what was sent, as heard from the driver."""
UNANSWERED = frozenset({"endSessions"})


def uncovered(sent: set[str]) -> list[str]:
    """The commands of a session that no row fails."""
    return sorted(sent - set(COMMANDS) - UNANSWERED)


def every_fault(command: str, client: Client, chance: random.Random) -> None:
    """A command fails in every way: once, twice, and for a while."""
    faults, drive = COMMANDS[command]
    for fault in faults:
        for often, times in TIMES.items():
            try:
                _one(command, fault, times, drive, client, chance)
            except Wrong as error:
                raise Wrong(f"{fault.name}, {often}: {error}") from None
    if drive is many:
        few(client, chance)
    if drive is dropping:
        client.system.run("migrations", "model", "prune")


def _one(
    command: str, fault: Fault, times: int, drive: Drive, client: Client, chance: random.Random
) -> None:
    system = client.system
    before = system.failures(command)
    struck = system.database_proxy.struck

    def met() -> bool:
        proxied = system.database_proxy.struck > struck
        return proxied if fault.kind else system.failures(command) > before

    with _failing(client, [command], fault, times) as until_over:
        eventually(lambda: drive(client, chance) or met(), "the command was not sent", 40)  # type: ignore[func-returns-value]
        until_over()
    system.ready()


@contextmanager
def _failing(
    client: Client, commands: Sequence[str], fault: Fault, times: int
) -> Iterator[Callable[[], None]]:
    """The fault, over at the end of the block; one without a number of times after a while."""
    admin, proxy = client.system.client.admin, client.system.database_proxy

    def begin() -> None:
        if fault.data is None:
            proxy.set(fault.kind, seconds=2.5, count=times, commands=commands, code=NOT_PRIMARY)  # type: ignore[arg-type]
        else:
            mode: object = {"times": times} if times else "alwaysOn"
            data = {"failCommands": list(commands), **fault.data}
            admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})

    def end() -> None:
        if fault.data is None:
            proxy.heal()
        else:
            admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    begin()
    timer = None if times else threading.Timer(WHILE_S, end)
    if timer is not None:
        timer.start()
    try:
        yield timer.join if timer is not None else lambda: None
    finally:
        if timer is not None:
            timer.join()
        end()


def several_fail(
    commands: Sequence[str], data: Mapping[str, object], client: Client, chance: random.Random
) -> None:
    """The engine fails several commands, six times in all."""
    other_listing(client, chance)
    job = client.start("backfill")
    with _failing(client, commands, Fault("", data), 6):
        for _ in range(2):
            some_work(client, chance)
        person(client, chance)
    if job is not None:
        client.wait(job)
