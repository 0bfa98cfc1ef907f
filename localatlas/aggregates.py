"""Vector searches and index lists inside aggregates, made into something the backend can run."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from localatlas import rewrite
from localatlas.asking import Asking, Body, Namespace
from localatlas.connection import Exchange
from localatlas.counting import counted
from localatlas.errors import (
    INVALID_NAMESPACE,
    NOT_FIRST_STAGE,
    CommandError,
    QueryError,
    failure,
)
from localatlas.indexes import Build, Indexes
from localatlas.pipeline import LIST_INDEXES, VECTOR_SEARCH, check_pipeline
from localatlas.plain import Plain, plain
from localatlas.requests import in_transaction, parse_list
from localatlas.stage import VectorQuery, parse_stage

Found = TypeVar("Found")

_NOT_IN_THE_STABLE_API = (
    f"{VECTOR_SEARCH} and {LIST_INDEXES} are not allowed with 'apiStrict: true' in API Version 1"
)


@dataclass(frozen=True, slots=True)
class Call:
    """An aggregate of a client: its body, its collection, and the way to the backend.

    What is `large` is looked through in a thread: other connections do not wait for it.
    """

    body: Body
    main: Namespace
    exchange: Exchange
    explained: bool
    large: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """An aggregate for the backend: `hits` and then the stages `rest`, or these alone.

    `plain` is the cheaper way to the same, where there is one.
    """

    body: Body
    collection: str
    hits: list[rewrite.Hit] | None
    rest: list[Body]
    plain: Plain | None

    def whole(self) -> Body:
        """The aggregate with which the backend does it all."""
        pipeline = self.rest
        if self.hits is not None:
            pipeline = rewrite.searched(self.hits, self.collection, self.rest)
        return {**self.body, "pipeline": pipeline}


class Aggregates:
    """Runs aggregates with our stages in them. CommandError and Denied are for the client.

    CommandError comes only when the backend would let the client read the collection.
    """

    def __init__(self, indexes: Indexes, backend: Asking) -> None:
        self._indexes = indexes
        self._backend = backend

    async def aggregate(
        self, body: Body, exchange: Exchange, *, large: bool = False
    ) -> Body | None:
        """The reply to an aggregate, or None when it holds nothing for us to change."""
        try:
            return await self._aggregate(body, exchange, large=large)
        except CommandError:
            await self._backend.may_read(str(body.get("$db", "")), body["aggregate"], exchange)
            raise

    async def _aggregate(self, body: Body, exchange: Exchange, *, large: bool) -> Body | None:
        pipeline = counted(body.get("pipeline"))
        if not rewrite.mentions(pipeline):
            await _looked(large, rewrite.check_scores, pipeline)
            if pipeline is body.get("pipeline"):
                return None
            return await exchange.run({**body, "pipeline": pipeline})
        prepared = await self._prepare({**body, "pipeline": pipeline}, exchange, large=large)
        if prepared.plain is not None:
            reply = await exchange.run({**prepared.body, "pipeline": prepared.plain.pipeline})
            finished = prepared.plain.finish(reply)
            if finished is not None:
                return finished
            await self._backend.close_cursor(reply, body, exchange)
        return await exchange.run(prepared.whole())

    async def explain(self, body: Body, exchange: Exchange, *, large: bool = False) -> Body | None:
        """The reply to an explain of an aggregate, or None when it holds none of our stages."""
        inner = body.get("explain")
        if not isinstance(inner, dict) or "aggregate" not in inner:
            return None
        if not rewrite.mentions(inner.get("pipeline")):
            return None
        database = str(body.get("$db", ""))
        try:
            whole = {**inner, "$db": database}
            ready = await self._prepare(whole, exchange, explained=True, large=large)
            prepared = ready.whole()
        except CommandError:
            await self._backend.may_read(database, inner["aggregate"], exchange)
            raise
        prepared.pop("$db", None)
        return await exchange.run({**body, "explain": prepared})

    async def _prepare(
        self, body: Body, exchange: Exchange, *, large: bool, explained: bool = False
    ) -> Prepared:
        """The aggregate for the backend; raises what the client is to be told instead."""
        pipeline = body["pipeline"]
        database = str(body.get("$db", ""))
        concern = body.get("readConcern")
        collection = body["aggregate"]
        try:
            check = functools.partial(
                check_pipeline,
                in_transaction=in_transaction(body),
                read_concern=concern.get("level") if isinstance(concern, dict) else None,
            )
            await _looked(large, check, pipeline)
            await _looked(large, rewrite.check_scores, pipeline)
            if body.get("apiStrict") is True:
                raise CommandError(323, "APIStrictError", _NOT_IN_THE_STABLE_API)
            if not isinstance(collection, str):
                raise failure(
                    INVALID_NAMESPACE,
                    "{aggregate: 1} is not valid for a search; a collection is required.",
                )
        except CommandError:
            await self._backend.abort(body, exchange)
            raise
        explained = explained or body.get("explain") is True
        call = Call(body, (database, collection), exchange, explained, large)
        hits, rest = await self._parts(call.main, pipeline, call)
        if rewrite.ours(pipeline[0]):
            # The server has no use for it, and does not look whether there is such an index.
            body = {key: value for key, value in body.items() if key != "hint"}
        simple = None if hits is None or explained else plain(hits, rest, body)
        return Prepared(body, collection, hits, rest, simple)

    async def _replaced(
        self,
        namespace: Namespace,
        pipeline: list[Body],
        call: Call,
        *,
        keep_score: bool,
    ) -> list[Body]:
        """The pipeline with our stages replaced, those of its sub-pipelines first."""
        hits, rest = await self._parts(namespace, pipeline, call, keep_score=keep_score)
        if hits is None:
            return rest
        return rewrite.searched(hits, namespace[1], rest, keep_score=keep_score)

    async def _parts(
        self,
        namespace: Namespace,
        pipeline: list[Body],
        call: Call,
        *,
        keep_score: bool = False,
    ) -> tuple[list[rewrite.Hit] | None, list[Body]]:
        """The hits of the search that the pipeline begins with, if it does, and the other stages.

        Ours are replaced in those.
        """
        first = pipeline[0] if pipeline else {}
        searched, lists = VECTOR_SEARCH in first, LIST_INDEXES in first
        rest = []
        for position, stage in enumerate(pipeline[1:] if searched or lists else pipeline, 1):
            later = searched and (keep_score or rewrite.reads_score(pipeline[position + 1 :]))
            rest.append(await self._with_inner(namespace[0], stage, call, keep_score=later))
        if searched:
            return await self._search(namespace, first[VECTOR_SEARCH], rest, call), rest
        if lists:
            await self._backend.may_read(*namespace, call.exchange)
            found = await self._backend.listed(namespace, parse_list(first[LIST_INDEXES]))
            return None, rewrite.listed(found, rest)
        return None, rest

    async def _with_inner(
        self, database: str, stage: Body, call: Call, *, keep_score: bool
    ) -> Body:
        """The stage with our stages replaced in the pipelines inside it."""
        if not rewrite.mentions([stage]):
            return stage
        name = "$lookup" if "$lookup" in stage else "$unionWith"
        inner = stage[name]
        namespace = (database, str(inner.get("from" if name == "$lookup" else "coll", "")))
        pipeline = await self._replaced(namespace, inner["pipeline"], call, keep_score=keep_score)
        return {name: {**inner, "pipeline": pipeline}}

    async def _search(
        self, namespace: Namespace, spec: Body, rest: list[Body], call: Call
    ) -> list[rewrite.Hit]:
        """The best ids with their scores, best first."""
        try:
            parse = functools.partial(parse_stage, explained=call.explained)
            query: VectorQuery | QueryError = await _looked(call.large, parse, spec)
        except QueryError as error:
            query = error
        try:
            # The search begins on the index that has the collection's name, while the backend is
            # asked whether that is still the same collection.
            early = self._begin(namespace, query, aside=call.large)
            found = await self._backend.collection(namespace, call.exchange)
            if found is None:
                return []
            uuid, kind = found
            if kind != "collection":
                raise failure(
                    NOT_FIRST_STAGE,
                    f"{VECTOR_SEARCH} is only valid as the first stage in a pipeline, "
                    f"and {namespace[1]} is a {kind}",
                )
            if isinstance(query, QueryError):
                raise query
            live = self._indexes.named(namespace, uuid, query.index)
            if live is None:
                return []
            build = live.build_for_queries()
            if early is not None and early[0] is build:
                return await early[1]
            return await asyncio.to_thread(build.search, query)
        except QueryError:
            # mongod reads the whole pipeline before it asks the search engine: its errors win.
            await self._backend.may_read(*namespace, call.exchange)
            if call.main == namespace and not any(
                name in stage for stage in rest for name in ("$out", "$merge")
            ):
                pipeline = rewrite.searched([], namespace[1], rest)
                await self._backend.ask(
                    {**call.body, "pipeline": pipeline, "cursor": {}}, call.exchange
                )
            raise
        except CommandError:
            await self._backend.may_read(*namespace, call.exchange)
            raise

    def _begin(
        self, namespace: Namespace, query: VectorQuery | QueryError, *, aside: bool
    ) -> tuple[Build, asyncio.Future[list[rewrite.Hit]]] | None:
        if isinstance(query, QueryError):
            return None
        build = self._indexes.likely(namespace, query.index)
        if build is None:
            return None
        loop = asyncio.get_running_loop()
        if build.small and not aside:
            future = loop.create_future()
            try:
                future.set_result(build.search(query))
            except CommandError as error:
                future.set_exception(error)
        else:
            future = loop.run_in_executor(None, build.search, query)
        future.add_done_callback(_seen)
        return build, future


async def _looked(large: bool, look: Callable[[Any], Found], at: Any) -> Found:
    return await asyncio.to_thread(look, at) if large else look(at)


def _seen(future: asyncio.Future[list[rewrite.Hit]]) -> None:
    # Where the early search turns out not to be wanted, its error is nobody's business.
    if not future.cancelled():
        future.exception()
