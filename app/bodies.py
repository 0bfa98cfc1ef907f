"""Request bodies: multipart or JSON, read in bounded memory and checked against one model.

The routes never let the framework read a body: authentication and caps come first, numbers that are
not finite are refused, and no error repeats what was sent.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from app import forms, problems, strictjson
from app.exchange import Exchange
from app.multipart import PartsReader
from faces.errors import (
    Busy,
    ImageTooLarge,
    InvalidRequest,
    LikenessError,
    MalformedRequest,
    RequestTooLarge,
)

JSON_CAP = 1024 * 1024
SLACK = 64 * 1024
"""What a body may hold besides its pictures."""
_LARGE = 256 * 1024
_BASE64_FIELD = re.compile(rb'"image_base64"\s*:\s*"([A-Za-z0-9+/=\\]*)"')
_BASE64_BEGINS = re.compile(rb'"image_base64"\s*:\s*"')

M = TypeVar("M", bound=BaseModel)


class Budget:
    """How many bytes of bodies and fetched pictures this process holds at once; more is busy.

    Safe to share by threads. With `whole` it is a part of that budget: what is taken here counts
    there, too.
    """

    def __init__(self, most: int, whole: Budget | None = None) -> None:
        self.most = most
        self.held = 0
        self._whole = whole
        self._lock = threading.Lock()

    def take(self, size: int, mine: int = 0) -> None:
        """Count `size` more bytes of a request that holds `mine` already.

        Raises Busy when they do not fit beside those of others. A body that is alone is let in:
        no later try would find more room.
        """
        with self._lock:
            if self.held + size > self.most and self.held > mine:
                raise Busy(
                    "Too many uploads are under way at once: try again in a moment.", retry_after=2
                )
            if self._whole is not None:
                self._whole.take(size, mine)
            self.held += size

    def hand_over(self, size: int) -> None:
        """Those bytes count in the whole only from now on, which is to get them back."""
        with self._lock:
            self.held -= size

    def give_back(self, size: int) -> None:
        """Those bytes are gone."""
        with self._lock:
            self.held -= size
            if self._whole is not None:
                self._whole.give_back(size)


@dataclass(frozen=True, slots=True)
class Shape(Generic[M]):
    """What a route's body may be.

    `pictures` are its picture fields, `json_fields` the text parts of a form that hold JSON;
    `nested` says that JSON bodies keep pictures in objects of their names; `together`, that there
    is no JSON body and that all pictures share the cap of one.
    """

    model: type[M]
    pictures: tuple[str, ...] = ()
    json_fields: tuple[str, ...] = ()
    nested: bool = False
    together: bool = False


@dataclass(frozen=True, slots=True)
class Incoming(Generic[M]):
    """A checked body: its fields, and the bytes of the pictures that came inside it."""

    form: M
    pictures: Mapping[str, bytes]


async def read(
    exchange: Exchange,
    shape: Shape[M],
    *,
    picture_cap: int,
    budget: Budget,
    taken: Callable[[int], None],
) -> Incoming[M]:
    """The checked body. `taken` is told each number of bytes that the budget must get back."""
    content_type = exchange.headers.get(b"content-type", b"")
    kind = content_type.partition(b";")[0].strip().lower()

    mine = 0

    def take(size: int) -> None:
        nonlocal mine
        budget.take(size, mine)
        mine += size
        taken(size)

    json = kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )
    try:
        if kind == b"multipart/form-data" and shape.pictures:
            return await _read_form(exchange, shape, content_type, picture_cap, take)
        if json and not shape.together:
            return await _read_json(exchange, shape, picture_cap, take)
    except LikenessError as error:
        forget(error)
        raise
    if shape.together:
        raise problems.UnsupportedMediaType("Send multipart/form-data.")
    raise problems.UnsupportedMediaType(
        "Send multipart/form-data or application/json."
        if shape.pictures
        else "Send application/json."
    )


async def raw(exchange: Exchange, cap: int, budget: Budget) -> bytes:
    """The body as it came, at most `cap` bytes, counted in `budget` until it is whole."""
    body = bytearray()
    taken = 0
    try:
        async for chunk in exchange.chunks(cap):
            budget.take(len(chunk), taken)
            taken += len(chunk)
            body += chunk
    except LikenessError:
        body.clear()  # see `forget`
        raise
    finally:
        budget.give_back(taken)
    return bytes(body)


def forget(error: BaseException) -> None:
    """Let go of what the frames behind an error hold: the body, as far as it came.

    The error lives until its answer is sent, and a client that still sends may take two seconds to
    listen to it, while the budget is somebody else's already.
    """
    traceback.clear_frames(error.__traceback__)


async def _read_form(
    exchange: Exchange,
    shape: Shape[M],
    content_type: bytes,
    picture_cap: int,
    take: Callable[[int], None],
) -> Incoming[M]:
    names = {*shape.pictures, *shape.model.model_fields} - {"image_base64"}
    made = PartsReader(
        content_type, pictures=shape.pictures, known=sorted(names), picture_cap=picture_cap
    )
    caps = 1 if shape.together else len(shape.pictures)
    with contextlib.closing(made) as reader:
        async for chunk in exchange.chunks(picture_cap * caps + SLACK):
            take(len(chunk))
            reader.feed(chunk)
        parts = reader.finish()
    values: dict[str, Any] = {}
    if "image_base64" in parts.texts:
        raise InvalidRequest.field(
            "image_base64", "belongs in a JSON body; a form holds the file itself"
        )
    for name, text in parts.texts.items():
        known = name in shape.json_fields
        values[name] = strictjson.parse(text.encode(), field=name) if known else text
    return Incoming(
        validate(shape.model, values, strict=False, known=sorted(names)), parts.pictures
    )


async def _read_json(
    exchange: Exchange, shape: Shape[M], picture_cap: int, take: Callable[[int], None]
) -> Incoming[M]:
    count = len(shape.pictures)
    cap = count * (_base64_size(picture_cap) + SLACK) if count else JSON_CAP
    body = bytearray()
    small = True
    async for chunk in exchange.chunks(max(cap, JSON_CAP)):
        take(2 * len(chunk))
        body += chunk
        if small and len(body) > JSON_CAP:
            # Once: a search for each chunk of a body in small ones is the work of minutes.
            if not _BASE64_BEGINS.search(body, 0, JSON_CAP):
                raise _json_too_large()
            small = False
    take(strictjson.weight(body))
    if len(body) > _LARGE:
        return await run_in_threadpool(_parse_json, bytes(body), shape, picture_cap)
    return _parse_json(bytes(body), shape, picture_cap)


def _base64_size(size: int) -> int:
    return -(-size // 3) * 4


def _json_too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The JSON body may hold at most {JSON_CAP} bytes besides image_base64.")


def _parse_json(body: bytes, shape: Shape[M], picture_cap: int) -> Incoming[M]:
    if len(body) > JSON_CAP:
        encoded = sum(len(match.group(1)) for match in _BASE64_FIELD.finditer(body))
        if len(body) - encoded > JSON_CAP:
            raise _json_too_large()
    values = strictjson.parse(body)
    if not isinstance(values, dict):
        raise InvalidRequest.field("body", "must be a JSON object")
    pictures: dict[str, bytes] = {}
    for name in shape.pictures:
        if shape.nested:
            inner = values.get(name)
            if isinstance(inner, dict) and isinstance(text := inner.get("image_base64"), str):
                pictures[name] = decode(text, f"{name}.image_base64", picture_cap)
                values[name] = {**inner, "image_base64": ""}
        else:
            if name in values:
                raise InvalidRequest.field(
                    "body", "in JSON a picture comes as image_url or image_base64"
                )
            if isinstance(text := values.get("image_base64"), str):
                pictures[name] = decode(text, "image_base64", picture_cap)
                values["image_base64"] = ""
    return Incoming(validate(shape.model, values, strict=True), pictures)


def decode(text: str, field: str, cap: int) -> bytes:
    """The bytes of standard base64. Raises InvalidRequest, or ImageTooLarge beyond `cap`."""
    if len(text) > _base64_size(cap):
        raise ImageTooLarge(f"{field}: more than {cap} bytes.")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest.field(
            field, "must be standard base64 (A-Z a-z 0-9 + / =) without a data: prefix"
        ) from None
    if len(data) > cap:
        raise ImageTooLarge(f"{field}: more than {cap} bytes.")
    return data


def validate(model: type[M], values: object, *, strict: bool, known: Sequence[str] = ()) -> M:
    """`values` as the model; not `strict` are those of a form, which are text.

    `known` are the names that a form may have, where they are others than the model's. Raises
    InvalidRequest that names the fields, never their values.
    """
    try:
        # None, not False: the fields that say themselves that they are strict stay so.
        return model.model_validate(
            values, strict=strict or None, context=forms.as_text(not strict)
        )
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=False)
        names = known or list(model.model_fields)
        raise problems.invalid(problems.fields_of(details, known=names)) from None


def exactly_one(given: Collection[str], allowed: Collection[str]) -> str:
    """The one form that was given. Raises InvalidRequest for none and for several."""
    if len(given) != 1:
        raise InvalidRequest.field("body", f"needs exactly one of {', '.join(allowed)}")
    return next(iter(given))


__all__ = [
    "Budget",
    "Incoming",
    "MalformedRequest",
    "Shape",
    "decode",
    "exactly_one",
    "read",
    "validate",
]
