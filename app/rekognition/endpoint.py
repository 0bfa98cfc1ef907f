"""POST /aws: one signed call of one operation, answered in the protocol's own words."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import exchange as exchanges
from app import strictjson
from app.auth import require
from app.deps import Client, services
from app.exchange import Exchange
from app.peers import client_of
from app.rekognition import collections, faces, faults, pictures, searches, sigv4, users
from app.rekognition.call import Answer, Call
from app.rekognition.faults import Serialization, UnknownOperation
from app.rekognition.keys import AccessKeys, Holder
from app.rekognition.model import OPERATIONS, Operation
from app.rekognition.sigv4 import Signed
from app.rekognition.tokens import Tokens
from app.services import Services
from faces.errors import ImageTooLarge, InvalidRequest, LikenessError, RequestTooLarge

PATHS = ("/aws", "/aws/", "/aws/v1", "/aws/v1/")
SMALL_BODY = 1024 * 1024
READ_BYTES = 15_728_640
"""A picture is read up to this size, to be told that it is too large, and not cut off."""
_PICTURE = re.compile(rb'"Bytes"\s*:\s*"([A-Za-z0-9+/=\\]*)"')
_TARGET = re.compile(r"RekognitionService\.([A-Za-z]{1,64})")

RUN: Mapping[str, Callable[[Call], Answer]] = MappingProxyType(
    {
        "CreateCollection": collections.create,
        "DeleteCollection": collections.delete,
        "DescribeCollection": collections.describe,
        "ListCollections": collections.page,
        "IndexFaces": faces.index,
        "ListFaces": faces.page,
        "DeleteFaces": faces.delete,
        "SearchFaces": searches.by_face,
        "SearchFacesByImage": searches.by_image,
        "DetectFaces": pictures.detect,
        "CompareFaces": pictures.compare,
        "CreateUser": users.once(users.create),
        "DeleteUser": users.once(users.delete),
        "ListUsers": users.page,
        "AssociateFaces": users.once(users.associate),
        "DisassociateFaces": users.once(users.disassociate),
        "SearchUsers": searches.users,
        "SearchUsersByImage": searches.users_by_image,
    }
)


@dataclass(frozen=True, slots=True)
class _Name:
    """What logs and metrics call a request of the dialect."""

    path_format: str


class Endpoint:
    """Serves the dialect with some access keys."""

    def __init__(self, keys: AccessKeys) -> None:
        self._keys = keys
        self._tokens = Tokens()

    def routes(self) -> list[Route]:
        """With and without a slash at the end: a redirect would break the signature."""
        return [
            Route(path, self.handle, methods=["POST", "GET", "PUT", "DELETE"], name="rekognition")
            for path in PATHS
        ]

    async def handle(self, request: Request) -> Response:
        """The answer of one call."""
        exchange = exchanges.of(request.scope)
        try:
            operation = _operation(request)
            request.scope["route"] = _Name(f"/aws {operation.name}")
            return await self._answer(request, exchange, operation)
        except LikenessError as error:
            return faults.response(error, exchange.request_id)

    async def _answer(self, request: Request, exchange: Exchange, operation: Operation) -> Response:
        parts = services(request)
        headers = request.scope["headers"]
        if self._keys:
            parts.limits.address(client_of(request.scope, exchange.headers, parts.trusted))
        signed = sigv4.read(headers, dt.datetime.now(dt.UTC))
        holder = self._keys.holder(signed.access_key)
        # Whose the body is shows its signature, and that only once it is whole.
        budget = parts.budget if holder.secret is None else parts.strangers
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            budget.take(size, taken)
            taken += size

        try:
            body = bytearray()
            async for chunk in exchange.chunks(_cap(operation)):
                take(2 * len(chunk))
                body += chunk
            exchange.watch()
            client = Client(exchange.gone, exchange.deadline, take)
            whole = bytes(body)
            body.clear()
            if holder.secret is not None:
                await run_in_threadpool(_verify, request, signed, holder.secret, whole)
                parts.strangers.hand_over(taken)
                budget = parts.budget
            take(strictjson.weight(whole))
            answer = await run_in_threadpool(
                self._run, exchange, parts, operation, signed, holder, client, whole
            )
        except RequestTooLarge as error:
            if operation.images:
                raise ImageTooLarge(
                    "Image.Bytes: may have at most 5242880 bytes; the request holds far more."
                ) from error
            raise
        finally:
            budget.give_back(taken)
        return Response(
            json.dumps(answer).encode(),
            headers={"x-amzn-RequestId": exchange.request_id},
            media_type=faults.MEDIA_TYPE,
        )

    def _run(
        self,
        exchange: Exchange,
        parts: Services,
        operation: Operation,
        signed: Signed,
        holder: Holder,
        client: Client,
        body: bytes,
    ) -> Answer:
        """Check and carry out a call of a proven caller, in a thread."""
        exchange.caller = holder.caller.name
        if self._keys:
            parts.limits.key(holder.caller.name)
        require(holder.caller, operation.role)
        given = operation.input.check(_parsed(body), "")
        if operation.images:
            parts.engine.check()
        call = Call(
            operation.name, given, parts, holder.caller, client, self._tokens, signed.region
        )
        return RUN[operation.name](call)


def _verify(request: Request, signed: Signed, secret: str, body: bytes) -> None:
    """Returns when the request is signed with the secret. Raises WrongSignature."""
    sigv4.verify(
        signed,
        secret,
        method=request.method,
        path=request.scope.get("raw_path") or request.scope["path"].encode(),
        query=request.scope["query_string"],
        headers=request.scope["headers"],
        body=body,
    )


def _operation(request: Request) -> Operation:
    target = request.headers.get("x-amz-target", "")
    found = _TARGET.fullmatch(target)
    operation = OPERATIONS.get(found[1]) if found else None
    if operation is None or request.method != "POST":
        raise UnknownOperation
    return operation


def _cap(operation: Operation) -> int:
    """The most bytes of a body: one oversized picture is read, so that its sender hears why."""
    if not operation.images:
        return SMALL_BODY
    usual = 5_242_880 * 4 // 3 + 4
    return READ_BYTES * 4 // 3 + (operation.images - 1) * usual + 64 * 1024


def _parsed(body: bytes) -> object:
    beside = len(body)
    if beside > SMALL_BODY:  # room for a picture is no room for lists, which take twenty times it
        beside -= sum(len(found.group(1)) for found in _PICTURE.finditer(body))
    if beside > SMALL_BODY:
        raise Serialization(f"The body may have at most {SMALL_BODY} bytes besides Image.Bytes.")
    try:
        return strictjson.parse(body or b"{}")
    except InvalidRequest as error:
        raise Serialization(error.detail) from error
