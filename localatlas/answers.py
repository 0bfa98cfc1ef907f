"""Answers the commands that the backend cannot: vector searches and search-index commands.

Whatever is answered here, the backend has first allowed this client an equivalent read or write on
the client's own connection; where it refuses, the client gets its refusal.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from localatlas import rewrite, wire
from localatlas.catalog import entry, new_id
from localatlas.connection import Exchange
from localatlas.definition import parse_definition
from localatlas.disk import WRITES
from localatlas.errors import (
    COMMAND_FAILED,
    INDEX_ALREADY_EXISTS,
    INDEX_NOT_FOUND,
    NAMESPACE_NOT_FOUND,
    NOT_FIRST_STAGE,
    CommandError,
    QueryError,
    failure,
)
from localatlas.indexes import Indexes, Live, described
from localatlas.pipeline import LIST_INDEXES, VECTOR_SEARCH, check_pipeline
from localatlas.requests import (
    INVALID_NAMESPACE,
    Target,
    check_fields,
    in_transaction,
    parse_create,
    parse_drop,
    parse_list,
    parse_update,
)
from localatlas.stage import parse_stage

log = logging.getLogger(__name__)

Body = dict[str, Any]
Namespace = tuple[str, str]
OUT_OF_DISK_SPACE = 14031
HOST_UNREACHABLE = 6
_FULL = (
    "The disk of the data folder is full, so nothing was written. Free some space; writes work "
    "again at once."
)


class Denied(Exception):
    """The backend refused the equivalent read or write; `reply` is what it said."""

    def __init__(self, reply: Body) -> None:
        super().__init__("the backend refused")
        self.reply = reply


class Answers:
    """The answer to one command, as a coroutine; None: the backend shall have it as it is."""

    def __init__(
        self,
        indexes: Indexes,
        client: AsyncMongoClient[Body],
        *,
        disk_full: Callable[[], bool],
    ) -> None:
        self._disk_full = disk_full
        self._indexes = indexes
        self._client = client
        self._host = socket.gethostname()

    async def __call__(self, request: wire.Request, exchange: Exchange) -> Body | None:
        body = request.body
        name = next(iter(body), "")
        try:
            if name in WRITES and self._disk_full():
                raise CommandError(OUT_OF_DISK_SPACE, "OutOfDiskSpace", _FULL)
            match name:
                case "aggregate":
                    return await self._aggregate(body, exchange)
                case "explain":
                    return await self._explain(body, exchange)
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

    # Aggregations

    async def _aggregate(self, body: Body, exchange: Exchange) -> Body | None:
        if not rewrite.mentions(body.get("pipeline")):
            return None
        prepared = await self._prepare(body, exchange)
        return await exchange.run(prepared)

    async def _explain(self, body: Body, exchange: Exchange) -> Body | None:
        inner = body.get("explain")
        if not isinstance(inner, dict) or not rewrite.mentions(inner.get("pipeline")):
            return None
        prepared = await self._prepare({"$db": body.get("$db", ""), **inner}, exchange)
        prepared.pop("$db", None)
        return await exchange.run({**body, "explain": prepared})

    async def _prepare(self, body: Body, exchange: Exchange) -> Body:
        """The aggregate for the backend; raises what the client is to be told instead."""
        pipeline = body["pipeline"]
        database = str(body.get("$db", ""))
        concern = body.get("readConcern")
        collection = body["aggregate"]
        try:
            check_pipeline(
                pipeline,
                in_transaction=in_transaction(body),
                read_concern=concern.get("level") if isinstance(concern, dict) else None,
            )
            if not isinstance(collection, str):
                raise failure(
                    INVALID_NAMESPACE,
                    "{aggregate: 1} is not valid for a stage that needs a collection",
                )
        except CommandError:
            if isinstance(collection, str):
                await self._may_read(database, collection, exchange)
            raise
        return {
            **body,
            "pipeline": await self._replaced((database, collection), pipeline, exchange),
        }

    async def _replaced(
        self,
        namespace: Namespace,
        pipeline: list[Body],
        exchange: Exchange,
        *,
        keep_score: bool = False,
    ) -> list[Body]:
        """The pipeline with our stages replaced, those of its sub-pipelines first."""
        first = pipeline[0] if pipeline else {}
        searched, lists = VECTOR_SEARCH in first, LIST_INDEXES in first
        rest = []
        for position, stage in enumerate(pipeline[1:] if searched or lists else pipeline, 1):
            later = searched and (keep_score or rewrite.reads_score(pipeline[position + 1 :]))
            rest.append(await self._with_inner(namespace[0], stage, exchange, keep_score=later))
        if searched:
            hits = await self._search(namespace, first[VECTOR_SEARCH], rest, exchange)
            return rewrite.searched(hits, rest, keep_score=keep_score)
        if lists:
            await self._may_read(*namespace, exchange)
            found = await self._listed(namespace, parse_list(first[LIST_INDEXES]))
            return rewrite.listed(found, rest)
        return rest

    async def _with_inner(
        self, database: str, stage: Body, exchange: Exchange, *, keep_score: bool
    ) -> Body:
        """The stage with our stages replaced in the pipelines inside it."""
        if not rewrite.mentions([stage]):
            return stage
        name = "$lookup" if "$lookup" in stage else "$unionWith"
        inner = stage[name]
        namespace = (database, str(inner.get("from" if name == "$lookup" else "coll", "")))
        pipeline = await self._replaced(
            namespace, inner["pipeline"], exchange, keep_score=keep_score
        )
        return {name: {**inner, "pipeline": pipeline}}

    async def _search(
        self, namespace: Namespace, spec: Body, rest: list[Body], exchange: Exchange
    ) -> list[rewrite.Hit]:
        """The best ids with their scores, best first."""
        try:
            found = await self._collection(namespace)
            if found is None:
                return []
            uuid, kind = found
            if kind != "collection":
                raise failure(
                    NOT_FIRST_STAGE,
                    f"{VECTOR_SEARCH} is only valid as the first stage in a pipeline, "
                    f"and {namespace[1]} is a {kind}",
                )
            query = parse_stage(spec)
            live = self._indexes.named(namespace, uuid, query.index)
            if live is None:
                return []
            build = live.build_for_queries()
            return await asyncio.to_thread(build.search, query)
        except QueryError:
            # mongod reads the whole pipeline before it asks the search engine: its errors win.
            if not any("$out" in stage or "$merge" in stage for stage in rest):
                await self._valid(namespace, rewrite.searched([], rest), exchange)
            else:
                await self._may_read(*namespace, exchange)
            raise
        except CommandError:
            await self._may_read(*namespace, exchange)
            raise

    async def _valid(self, namespace: Namespace, pipeline: list[Body], exchange: Exchange) -> None:
        await self._ask(
            {
                "aggregate": namespace[1],
                "pipeline": pipeline,
                "cursor": {},
                "$db": namespace[0],
            },
            exchange,
        )

    # Search-index commands

    async def _create(self, body: Body, exchange: Exchange) -> Body:
        namespace = await self._writable("createSearchIndexes", body, exchange)
        uuid = await self._existing(namespace)
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
        uuid = await self._existing(namespace)
        live = self._find(namespace, uuid, target)
        parse_definition(document, where="")
        self._indexes.update(live, document)
        return {"ok": 1.0}

    async def _drop(self, body: Body, exchange: Exchange) -> Body:
        namespace = await self._writable("dropSearchIndex", body, exchange)
        if body.get("name") is not None and body.get("id") is not None:
            parse_drop(body)
        uuid = await self._existing(namespace)
        self._indexes.drop(self._find(namespace, uuid, parse_drop(body)))
        return {"ok": 1.0}

    async def _list_command(self, body: Body, exchange: Exchange) -> Body:
        try:
            collection = check_fields("listSearchIndexes", body)
        except CommandError:
            await self._may_read(
                str(body.get("$db", "")), str(body.get(next(iter(body)))), exchange
            )
            raise
        namespace = (str(body.get("$db", "")), collection)
        await self._may_read(*namespace, exchange)
        await self._existing(namespace)
        documents = await self._listed(namespace, parse_list(body))
        return {
            "cursor": {"id": 0, "ns": f"{namespace[0]}.{collection}", "firstBatch": documents},
            "ok": 1.0,
        }

    def _find(self, namespace: Namespace, uuid: bytes, target: Target) -> Live:
        for live in self._indexes.of(namespace, uuid):
            if target.matches(live.entry.name, live.entry.id):
                return live
        raise failure(INDEX_NOT_FOUND, target.missing(".".join(namespace)))

    async def _listed(self, namespace: Namespace, target: Target) -> list[Body]:
        found = await self._collection(namespace)
        if found is None:
            return []
        return [
            described(live, self._host)
            for live in self._indexes.of(namespace, found[0])
            if target.matches(live.entry.name, live.entry.id)
        ]

    # What the backend is asked

    async def _writable(self, command: str, body: Body, exchange: Exchange) -> Namespace:
        """The namespace of a command on indexes, once the backend would allow a write to it."""
        database = str(body.get("$db", ""))
        try:
            collection = check_fields(command, body)
        except CommandError:
            await self._may_write(database, str(body[command]), exchange)
            raise
        await self._may_write(database, collection, exchange)
        return database, collection

    async def _may_read(self, database: str, collection: str, exchange: Exchange) -> None:
        await self._ask(
            {
                "find": collection,
                "filter": {"_id": {"$in": []}},
                "singleBatch": True,
                "$db": database,
            },
            exchange,
        )

    async def _may_write(self, database: str, collection: str, exchange: Exchange) -> None:
        await self._ask(
            {
                "delete": collection,
                "deletes": [{"q": {"_id": {"$in": []}}, "limit": 1}],
                "$db": database,
            },
            exchange,
        )

    async def _ask(self, body: Body, exchange: Exchange) -> Body:
        reply = await exchange.run(body)
        if not reply.get("ok"):
            raise Denied(reply)
        return reply

    async def _existing(self, namespace: Namespace) -> bytes:
        found = await self._collection(namespace)
        if found is None:
            raise failure(
                NAMESPACE_NOT_FOUND, f"Collection '{'.'.join(namespace)}' does not exist."
            )
        return found[0]

    async def _collection(self, namespace: Namespace) -> tuple[bytes, str] | None:
        """The collection's uuid and kind, or None when there is none."""
        database, name = namespace
        if not database or not name:
            return None
        cursor = await self._client[database].list_collections(filter={"name": name})
        async for info in cursor:
            return bytes(info.get("info", {}).get("uuid", b"")), str(info.get("type", "collection"))
        return None


def error_reply(error: CommandError) -> Body:
    """An error as the server sends it."""
    return {"ok": 0.0, "errmsg": error.message, "code": error.code, "codeName": error.name}


def namespace_of(body: Mapping[str, Any], command: str) -> Namespace:
    return str(body.get("$db", "")), str(body[command])
