"""Answers the commands that the backend cannot: vector searches and search-index commands.

Whatever is answered here, the backend has first allowed this client an equivalent read or write on
the client's own connection; where it refuses, the client gets its refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from localatlas import wire
from localatlas.aggregates import Aggregates
from localatlas.asking import Asking, Body, Denied, Namespace
from localatlas.catalog import entry, new_id
from localatlas.connection import WATCHED, Exchange
from localatlas.definition import parse_definition
from localatlas.disk import WRITES
from localatlas.errors import (
    COMMAND_FAILED,
    INDEX_ALREADY_EXISTS,
    INDEX_NOT_FOUND,
    CommandError,
    failure,
)
from localatlas.indexes import Indexes, Live
from localatlas.names import Names
from localatlas.pipeline import check_pipelines_within
from localatlas.requests import (
    Target,
    check_fields,
    parse_create,
    parse_drop,
    parse_list,
    parse_update,
)

log = logging.getLogger(__name__)

OUT_OF_DISK_SPACE = 14031
HOST_UNREACHABLE = 6
_FULL = (
    "The disk of the data folder is full, so nothing was written. Free some space; writes work "
    "again at once."
)


class Answers:
    """The answer to one command, as a coroutine; None: the backend shall have it as it is."""

    def __init__(
        self,
        indexes: Indexes,
        client: AsyncMongoClient[Body],
        *,
        disk_full: Callable[[], bool],
        followed: Callable[[Timestamp | None], Awaitable[None]],
        names: Names,
    ) -> None:
        self._followed = followed
        self._disk_full = disk_full
        self._indexes = indexes
        self._backend = Asking(indexes, client, names)
        self._aggregates = Aggregates(indexes, self._backend)

    async def __call__(self, request: wire.Request, exchange: Exchange) -> Body | None:
        body = request.body
        name = next(iter(body), "")
        try:
            if name in WRITES and self._disk_full():
                await self._backend.may_run(body, exchange)
                raise CommandError(OUT_OF_DISK_SPACE, "OutOfDiskSpace", _FULL)
            match name:
                case "aggregate":
                    return await self._aggregates.aggregate(body, exchange, large=request.large)
                case "explain":
                    return await self._aggregates.explain(body, exchange, large=request.large)
                case _ if name in WATCHED:
                    await self._check_within(body, exchange)
                case "renameCollection":
                    return await self._rename(body, exchange)
                case "getLog":
                    return await self._log_lines(body, exchange)
                case "createSearchIndexes":
                    return await self._create(body, exchange)
                case "updateSearchIndex":
                    return await self._update(body, exchange)
                case "dropSearchIndex":
                    return await self._drop(body, exchange)
                case "listSearchIndexes":
                    return await self._list_command(body, exchange)
        except Denied as refusal:
            return refusal.reply
        except CommandError as error:
            return error_reply(error)
        except PyMongoError as error:
            log.warning("the backend did not answer: %s", type(error).__name__)
            return error_reply(
                CommandError(HOST_UNREACHABLE, "HostUnreachable", "The backend did not answer.")
            )
        except ConnectionError:
            raise  # to or from this client: there is nobody to answer
        except OSError as error:
            return error_reply(
                CommandError(
                    OUT_OF_DISK_SPACE,
                    "OutOfDiskSpace",
                    f"The index definition could not be written to the disk: {error.strerror}. "
                    "Free some space and try again.",
                )
            )
        return None

    async def _check_within(self, body: Body, exchange: Exchange) -> None:
        try:
            check_pipelines_within(body)
        except CommandError:
            await self._backend.may_run(body, exchange)
            raise

    async def _rename(self, body: Body, exchange: Exchange) -> Body | None:
        """The backend's reply, once the indexes have the new name too.

        A backend that gives a renamed collection another uuid would otherwise seem to have lost
        them for a moment.
        """
        if not len(self._indexes):
            return None
        reply = await exchange.run(body)
        if reply.get("ok"):
            await self._followed(reply.get("operationTime"))
        return reply

    async def _log_lines(self, body: Body, exchange: Exchange) -> Body:
        """The backend's log, the start-up warnings without lines that no server writes.

        The embedded engine takes every connection for a warning, which shells then print.
        """
        reply = await exchange.run(body)
        lines = reply.get("log")
        if body.get("getLog") == "startupWarnings" and isinstance(lines, list):
            reply["log"] = [line for line in lines if str(line).startswith("{")]
            reply["totalLinesWritten"] = len(reply["log"])
        return reply

    async def _create(self, body: Body, exchange: Exchange) -> Body:
        namespace = await self._writable("createSearchIndexes", body, exchange)
        uuid = await self._backend.existing(namespace)
        wanted = parse_create(body)
        present = {live.entry.name: live for live in self._indexes.of(namespace, uuid)}
        new, created = [], []
        for one in wanted:
            live = present.get(one.name)
            if live is None:
                made = entry(namespace, uuid, one.name, one.document)
                new.append(made)
                created.append({"id": made.id, "name": made.name})
            elif live.entry.definition.equivalent(one.definition):
                # As the engine does it: the id of the reply then belongs to nothing.
                created.append({"id": new_id(), "name": one.name})
            else:
                raise failure(
                    INDEX_ALREADY_EXISTS,
                    f"Index {one.name} already exists with a different definition. "
                    "Drop it first if needed.",
                )
        if len({made.name for made in new}) < len(new):
            raise failure(COMMAND_FAILED, "duplicate index names for the same collection")
        if new:
            self._indexes.create(new)
        return {"ok": 1.0, "indexesCreated": created}

    async def _update(self, body: Body, exchange: Exchange) -> Body:
        namespace = await self._writable("updateSearchIndex", body, exchange)
        target, document = parse_update(body)
        uuid = await self._backend.existing(namespace)
        live = self._find(namespace, uuid, target)
        parse_definition(document, where="")
        self._indexes.update(live, document)
        return {"ok": 1.0}

    async def _drop(self, body: Body, exchange: Exchange) -> Body:
        namespace = await self._writable("dropSearchIndex", body, exchange)
        if body.get("name") is not None and body.get("id") is not None:
            parse_drop(body)
        uuid = await self._backend.existing(namespace)
        self._indexes.drop(self._find(namespace, uuid, parse_drop(body)))
        return {"ok": 1.0}

    async def _list_command(self, body: Body, exchange: Exchange) -> Body:
        try:
            collection = check_fields("listSearchIndexes", body)
        except CommandError:
            await self._backend.may_read(
                str(body.get("$db", "")), str(body.get(next(iter(body)))), exchange
            )
            raise
        namespace = (str(body.get("$db", "")), collection)
        await self._backend.may_read(*namespace, exchange)
        await self._backend.existing(namespace)
        documents = await self._backend.listed(namespace, parse_list(body))
        return {
            "cursor": {"id": 0, "ns": f"{namespace[0]}.{collection}", "firstBatch": documents},
            "ok": 1.0,
        }

    def _find(self, namespace: Namespace, uuid: bytes, target: Target) -> Live:
        for live in self._indexes.of(namespace, uuid):
            if target.matches(live.entry.name, live.entry.id):
                return live
        raise failure(INDEX_NOT_FOUND, target.missing(".".join(namespace)))

    async def _writable(self, command: str, body: Body, exchange: Exchange) -> Namespace:
        """The namespace of a command on indexes, once the backend would allow a write to it."""
        database = str(body.get("$db", ""))
        try:
            collection = check_fields(command, body)
        except CommandError:
            await self._backend.may_write(database, str(body[command]), exchange)
            raise
        await self._backend.may_write(database, collection, exchange)
        return database, collection


def error_reply(error: CommandError) -> Body:
    """An error as the server sends it."""
    return {"ok": 0.0, "errmsg": error.message, "code": error.code, "codeName": error.name}
