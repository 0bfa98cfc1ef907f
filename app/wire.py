"""What all answers are made of: numbers and times as the wire has them, boxes, pages, problems."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from starlette.responses import Response

from faces import types as t

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


T = TypeVar("T")


def _iso(moment: dt.datetime) -> str:
    """UTC with milliseconds, the precision that the database keeps."""
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[dt.datetime, PlainSerializer(_iso, return_type=str)]


Pixel = Annotated[float, PlainSerializer(lambda v: round(v, 2), return_type=float)]


Ratio = Annotated[float, PlainSerializer(lambda v: round(v, 6), return_type=float)]


class Wire(BaseModel):
    """The base of all answers."""

    model_config = ConfigDict(extra="forbid", json_schema_mode_override="serialization")


class Box(Wire):
    """A rectangle in pixels of the upright picture, origin at the top left."""

    x: Pixel
    y: Pixel
    width: Pixel
    height: Pixel

    @classmethod
    def of(cls, box: t.Box) -> Box:
        """From the core's box."""
        return cls(x=box.x, y=box.y, width=box.width, height=box.height)


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `instance` is the request id."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    reason: str | None = Field(None, description="Why a picture is unusable (`invalid_image`).")
    errors: list[FieldProblem] | None = None


class FieldProblem(BaseModel):
    """One field at fault."""

    field: str
    message: str


class ImageSize(Wire):
    """The upright size in pixels."""

    width: int
    height: int


class MediaSummary(Wire):
    """What a match says about its picture."""

    url: str | None
    title: str | None
    taken_at: Time | None


class Page(Wire, Generic[T]):
    """One page of a list; `next_cursor` is null at the end."""

    items: list[T]
    next_cursor: str | None


Problem.model_rebuild()


def unless_known(model: BaseModel, known: str | None) -> Response:
    """The model as a JSON response with an ETag; 304 without a body for who has it already.

    `known` is the request's If-None-Match.
    """
    body = model.model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    had = {one.strip().removeprefix("W/") for one in (known or "").split(",")}
    if etag in had or "*" in had:
        return Response(status_code=304, headers={"etag": etag})
    return Response(body, media_type="application/json", headers={"etag": etag})


def answer(model: BaseModel, status: int = 200, **headers: str) -> Response:
    """The model as a JSON response."""
    return Response(
        model.model_dump_json().encode(),
        status_code=status,
        media_type="application/json",
        headers=headers or None,
    )
