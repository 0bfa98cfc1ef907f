"""The database fails one command in every way, each command that a session sends in its turn.

The engine's own `failCommand` fails it with an error, by a closed connection and by a wait. What
the engine cannot do is done by the proxy before it: closing the connection once a command has been
carried out, and failing the commands that its front answers.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from bench.fault_kills import MODELS
from bench.fault_ledger import Client
from bench.fault_proxy import Kind
from bench.fault_system import Wrong, eventually
from bench.fault_work import other_listing, person, some_work

NOT_PRIMARY, WRITE_CONFLICT = 10107, 112
WHILE_S = 3.0
MET_S = 90.0
MANY = 130
"""More documents than the first batch of an answer holds."""
Drive = Callable[[Client, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail a command: by the engine with `data`, or by the proxy with `kind`."""

    name: str
    data: Mapping[str, object] | None = None
    kind: Kind = "none"


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
OF_MIGRATIONS = tuple(
    replace(fault, data=fault.data and {**fault.data, "appName": "likeness-migrations"})
    for fault in ENGINE
)
"""For what the embedded Atlas itself sends to the engine all the time."""
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


def migrating(client: Client, chance: random.Random) -> None:
    """`migrations up` of an empty database: may fail, and then says why in a sentence."""
    run, name = client.system.run, f"{client.system.db.name}-{chance.randrange(1_000_000)}"
    try:
        run("migrations", "up", check=False, MONGODB_DATABASE=name)
        run("migrations", "up", check=False, MONGODB_DATABASE=name)
    finally:
        client.system.client.drop_database(name)


def exporting(client: Client, chance: random.Random) -> None:
    """The tombstones of another database, more than one batch, are exported: all, or an error."""
    name = f"{client.system.db.name}-{chance.randrange(1_000_000)}"
    stone = {"kind": "item", "collection": "c", "box": None, "receipt_id": None,
             "created_at": dt.datetime.now(dt.UTC)}  # fmt: skip
    stones = [{**stone, "_id": f"item/{n}", "media_id": f"{n}"} for n in range(MANY)]
    client.system.client[name].likeness_tombstones.insert_many(stones)
    said = None
    try:
        with suppress(Wrong):  # an error that is said is what is expected of a fault
            said = client.system.run("migrations", "tombstones", "export", MONGODB_DATABASE=name)
        if said is not None and len(said.splitlines()) != MANY:
            raise Wrong(f"{len(said.splitlines())} of {MANY} tombstones were exported")
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
    "getMore": (OF_MIGRATIONS, exporting),
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
ALSO: Mapping[str, Sequence[str]] = {"getMore": ["killCursors"]}
"""What fails together with a command: sent only when that one failed."""


def uncovered(sent: set[str]) -> list[str]:
    """The commands of a session that no row fails."""
    return sorted(sent - {*COMMANDS, *UNANSWERED, *(c for also in ALSO.values() for c in also)})


def every_fault(command: str, client: Client, chance: random.Random) -> None:
    """A command fails in every way: once, twice, and for a while."""
    faults, drive = COMMANDS[command]
    for fault in faults:
        for often, times in TIMES.items():
            try:
                _one(command, fault, times, drive, client, chance)
            except Wrong as error:
                raise Wrong(f"{fault.name}, {often}: {error}") from None
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
        return proxied if fault.data is None else system.failures(command) > before

    def driven() -> bool:
        drive(client, chance)
        return met()

    with _failing(client, [command, *ALSO.get(command, ())], fault, times):
        ending = (
            None
            if times
            else threading.Thread(target=_end_after_a_while, args=(fault, client, met))
        )
        if ending is not None:
            ending.start()
        try:
            eventually(driven, "the command was not sent", MET_S)
        finally:
            if ending is not None:
                ending.join()
    system.ready()


def _end_after_a_while(fault: Fault, client: Client, met: Callable[[], bool]) -> None:
    """Ends a fault that would last for ever; not before a command met it."""
    until = time.monotonic() + WHILE_S
    with suppress(Wrong):  # the other thread says so
        eventually(met, "", MET_S)
    time.sleep(max(0.0, until - time.monotonic()))
    _end(fault, client)


@contextmanager
def _failing(client: Client, commands: Sequence[str], fault: Fault, times: int) -> Iterator[None]:
    """The fault, over at the end of the block; `times` 0: as often as they are sent."""
    if fault.data is None:
        proxy = client.system.database_proxy
        proxy.set(fault.kind, seconds=2.5, count=times, commands=commands, code=NOT_PRIMARY)
    else:
        mode: object = {"times": times} if times else "alwaysOn"
        data = {"failCommands": list(commands), **fault.data}
        client.system.client.admin.command(
            "configureFailPoint", "failCommand", mode=mode, data=data
        )
    try:
        yield
    finally:
        _end(fault, client)


def _end(fault: Fault, client: Client) -> None:
    if fault.data is None:
        client.system.database_proxy.heal()
    else:
        client.system.client.admin.command("configureFailPoint", "failCommand", mode="off")


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
