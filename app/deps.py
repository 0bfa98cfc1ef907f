"""What routes ask for, as `Annotated` aliases: services, caller, body, client."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, BeforeValidator
from starlette.convertors import Convertor, register_url_convertor

from app import bodies
from app import exchange as exchanges
from app.auth import Caller, require
from app.bodies import Incoming, Shape
from app.exchange import Exchange
from app.peers import client_of
from app.services import Services
from app.wire import UUID_PATTERN
from faces.errors import InvalidRequest
from faces.settings import Role

M = TypeVar("M", bound=BaseModel)
NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,255}$"
SUBJECT_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}$"
ROLE_ATTRIBUTE = "likeness_role"
SHAPE_ATTRIBUTE = "likeness_shape"


class Anything(Convertor[str]):
    """The rest of a path, whatever it holds: `path` would stop at a line break, and so lose it."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


# The framework's own table of converters; this is the way to add one.
register_url_convertor("anything", Anything())


def services(request: Request) -> Services:
    """The services of the process."""
    found = request.app.state.services
    assert isinstance(found, Services)  # noqa: S101 - for the type only
    return found


def get_exchange(request: Request) -> Exchange:
    """The exchange of the request."""
    return exchanges.of(request.scope)


ServicesDep = Annotated[Services, Depends(services)]
ExchangeDep = Annotated[Exchange, Depends(get_exchange)]


@functools.cache
def need(role: Role) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, whose key has at least `role`, within its rate limits."""

    async def caller(request: Request, parts: ServicesDep, exchange: ExchangeDep) -> Caller:
        return admit(request, parts, exchange, role)

    setattr(caller, ROLE_ATTRIBUTE, role)
    return caller


def admit(request: Request, parts: Services, exchange: Exchange, role: Role) -> Caller:
    """The caller of this request. Raises Unauthorized, Forbidden, RateLimited or InvalidRequest."""
    if parts.keys:
        parts.limits.address(client_of(request.scope, exchange.headers, parts.trusted))
    found = parts.keys.caller(exchange.headers)
    exchange.caller = found.name
    if parts.keys:
        parts.limits.key(found.name)
    require(found, role)
    _only_known_query(request)
    return found


def _only_known_query(request: Request) -> None:
    """Refuse query parameters that the route does not have, or has once: never ignore a wish."""
    if not request.url.query:
        return
    route = request.scope["route"]
    known = {param.alias for param in _query_params(route.dependant)}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            takes = (
                f"takes only {', '.join(sorted(known))}"
                if known
                else "takes none: what it is told stands in its path and body"
            )
            raise InvalidRequest.field("query", f"unknown query parameter; this route {takes}")
        if name in seen:
            raise InvalidRequest.field(name, "was given twice")
        seen.add(name)


def _query_params(dependant: Any) -> list[Any]:
    found = list(getattr(dependant, "query_params", ()))
    for sub in getattr(dependant, "dependencies", ()):
        found += _query_params(sub)
    return found


async def face_route(parts: ServicesDep) -> None:
    """Refuse early, before a body is read, while the encoder cannot be used."""
    parts.engine.check()


FaceRoute = Annotated[None, Depends(face_route)]
SearchCaller = Annotated[Caller, Depends(need("search"))]
IndexCaller = Annotated[Caller, Depends(need("index"))]
AdminCaller = Annotated[Caller, Depends(need("admin"))]


def body(shape: Shape[M], *, stranger: bool = False) -> Callable[..., AsyncIterator[Incoming[M]]]:
    """A dependency: the checked body of this shape. Declare the caller's dependency before it.

    `stranger` says that the body comes before anything is known of who sends it.
    """

    async def incoming(parts: ServicesDep, exchange: ExchangeDep) -> AsyncIterator[Incoming[M]]:
        taken = 0
        budget = parts.strangers if stranger else parts.budget

        def count(size: int) -> None:
            nonlocal taken
            taken += size

        try:
            yield await bodies.read(
                exchange,
                shape,
                picture_cap=parts.settings.max_upload_bytes,
                budget=budget,
                taken=count,
            )
        finally:
            budget.give_back(taken)

    setattr(incoming, SHAPE_ATTRIBUTE, shape)
    return incoming


@dataclass(frozen=True, slots=True)
class Client:
    """The client: `gone` is set when it hangs up, `deadline` is on the monotonic clock.

    `take` counts bytes that its request holds besides its body; it raises Busy.
    """

    gone: threading.Event
    deadline: float
    take: Callable[[int], None]


async def client(parts: ServicesDep, exchange: ExchangeDep) -> AsyncIterator[Client]:
    """The client, watched from now on. The body must have been read."""
    exchange.watch()
    held = 0

    def take(size: int) -> None:
        nonlocal held
        parts.budget.take(size, held)
        held += size

    try:
        yield Client(exchange.gone, exchange.deadline, take)
    finally:
        parts.budget.give_back(held)


ClientDep = Annotated[Client, Depends(client)]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list."""

    limit: int
    cursor: str | None


def _digits(value: object) -> object:
    """Digits only: `1_0`, ` 5` and `5.0` are no numbers that anybody means to send."""
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("must be a whole number")
    return value


def paging(
    limit: Annotated[
        int,
        BeforeValidator(_digits),
        Query(ge=1, le=1000, description="How many items at most."),
    ] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> Paging:
    """The page that the query asks for."""
    return Paging(limit, cursor)


PagingDep = Annotated[Paging, Depends(paging)]
CollectionPath = Annotated[str, Path(pattern=NAME_PATTERN, examples=["default"])]
SubjectPath = Annotated[str, Path(pattern=SUBJECT_PATTERN, examples=["ada"])]
UuidPath = Annotated[str, Path(pattern=UUID_PATTERN)]
