"""What the front asks the backend: what a client may do, and which collection a name means."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from pymongo import AsyncMongoClient

from localatlas.connection import Exchange
from localatlas.errors import NAMESPACE_NOT_FOUND, UNAUTHORIZED, CommandError, failure
from localatlas.indexes import Indexes, described
from localatlas.names import Names
from localatlas.requests import Target, in_transaction

Body = dict[str, Any]
Namespace = tuple[str, str]


class Denied(Exception):
    """The backend refused the equivalent read or write; `reply` is what it said."""

    def __init__(self, reply: Body) -> None:
        super().__init__("the backend refused")
        self.reply = reply


class Asking:
    """Questions to the backend: on the client's own connection, or on the front's."""

    def __init__(self, indexes: Indexes, client: AsyncMongoClient[Body], names: Names) -> None:
        self._indexes = indexes
        self._names = names
        self._client = client
        self._host = socket.gethostname()

    async def may_read(self, database: str, collection: object, exchange: Exchange) -> None:
        """Returns when the backend lets this client read the collection; Denied otherwise.

        What is no collection's name stands for the database.
        """
        if not isinstance(collection, str):
            await self.ask(
                {
                    "listCollections": 1,
                    "filter": {"name": ""},
                    "nameOnly": True,
                    "$db": database,
                },
                exchange,
            )
            return
        await self.ask(
            {
                "find": collection,
                "filter": {"_id": {"$in": []}},
                "singleBatch": True,
                "$db": database,
            },
            exchange,
        )

    async def may_write(self, database: str, collection: str, exchange: Exchange) -> None:
        """Returns when the backend lets this client write to the collection; Denied otherwise."""
        await self.ask(
            {
                "delete": collection,
                "deletes": [{"q": {"_id": {"$in": []}}, "limit": 1}],
                "$db": database,
            },
            exchange,
        )

    async def may_run(self, body: Body, exchange: Exchange) -> None:
        """Returns when the backend lets this client do what a write command is for; or Denied.

        Who makes collections and views must only know which there are.
        """
        name, database = next(iter(body)), str(body.get("$db", ""))
        if name in ("create", "collMod", "createIndexes"):
            await self.may_read(database, None, exchange)
        elif name != "bulkWrite":
            await self.may_write(database, str(body[name]), exchange)
        else:
            spaces = body.get("nsInfo")
            spaces = spaces if isinstance(spaces, list) else []
            named = {str(one.get("ns")) for one in spaces if isinstance(one, Mapping)}
            for space in named or {f"{database}."}:
                base, _, collection = space.partition(".")
                await self.may_write(base, collection, exchange)

    async def ask(self, body: Body, exchange: Exchange) -> Body:
        """The backend's reply on the client's own connection; Denied when it is an error."""
        reply = await exchange.run(body)
        if not reply.get("ok"):
            raise Denied(reply)
        return reply

    async def abort(self, body: Body, exchange: Exchange) -> None:
        """Ends the transaction of a command that is refused here, as the server does then."""
        if in_transaction(body):
            abort: Body = {"abortTransaction": 1, "$db": "admin"}
            abort |= {key: body[key] for key in ("lsid", "txnNumber", "autocommit") if key in body}
            await exchange.run(abort)

    async def close_cursor(self, reply: Body, body: Body, exchange: Exchange) -> None:
        """Ends the cursor of a reply that the client does not get."""
        identity = reply["cursor"]["id"]
        if identity:
            await exchange.run(
                {"killCursors": body["aggregate"], "cursors": [identity], "$db": body["$db"]}
            )

    async def existing(self, namespace: Namespace) -> bytes:
        """The collection's uuid; CommandError when there is no such collection."""
        found = await self.collection(namespace)
        if found is None:
            raise failure(
                NAMESPACE_NOT_FOUND, f"Collection '{'.'.join(namespace)}' does not exist."
            )
        if found[1] != "collection":
            raise CommandError(
                166, "CommandNotSupportedOnView", f"{'.'.join(namespace)} is a {found[1]}"
            )
        return found[0]

    async def collection(
        self, namespace: Namespace, exchange: Exchange | None = None
    ) -> tuple[bytes, str] | None:
        """The collection's uuid and kind, or None when there is none.

        With `exchange` it is remembered, or asked on the client's own connection, which is cheaper;
        the front's own is asked for a client that may not list collections.
        """
        database, name = namespace
        if not database or not name:
            return None
        if exchange is not None:
            known = self._names.known(namespace)
            if known is not None:
                return known
            asked = self._names.moment()
            listing = {"listCollections": 1, "filter": {"name": name}, "$db": database}
            reply = await exchange.run(listing)
            if reply.get("ok"):
                found = next(map(_identity, reply["cursor"]["firstBatch"]), None)
                if found is not None:
                    self._names.remember(namespace, found, asked)
                return found
            if reply.get("code") != UNAUTHORIZED:
                raise Denied(reply)
        async for info in await self._client[database].list_collections(filter={"name": name}):
            return _identity(info)
        return None

    async def listed(self, namespace: Namespace, target: Target) -> list[Body]:
        """The collection's search indexes, as the list shows them."""
        found = await self.collection(namespace)
        if found is None:
            return []
        return [
            described(live, self._host)
            for live in self._indexes.of(namespace, found[0])
            if target.matches(live.entry.name, live.entry.id)
        ]


def _identity(info: Mapping[str, Any]) -> tuple[bytes, str]:
    # The embedded engine lists a time series as a collection with options of one.
    kind = "timeseries" if "timeseries" in info.get("options", {}) else info.get("type")
    return bytes(info.get("info", {}).get("uuid", b"")), str(kind or "collection")
