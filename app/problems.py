"""Errors as application/problem+json: the only file that knows which error has which status.

A problem never holds the caller's input, a stack, a key or a picture: its texts come from the
error classes, and a field at fault is named only when the name is one of ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

from faces import errors as e

STATUS: Mapping[type[e.LikenessError], int] = {
    e.MalformedRequest: 400,
    e.InvalidRequest: 422,
    e.NotFound: 404,
    e.Conflict: 409,
    e.LeaseLost: 409,
    e.ModelMismatch: 409,
    e.Unauthorized: 401,
    e.Forbidden: 403,
    e.RequestTooLarge: 413,
    e.RequestTimeout: 408,
    e.DeadlineExceeded: 504,
    e.UnsupportedImage: 415,
    e.ImageTooLarge: 413,
    e.InvalidImage: 422,
    e.NoFace: 422,
    e.UrlNotAllowed: 422,
    e.FetchFailed: 502,
    e.RateLimited: 429,
    e.Unavailable: 503,
    e.ModelFileError: 503,
}

TITLES: Mapping[str, str] = {
    "loading": "The models are still loading",
    "face_recognition_disabled": "Face recognition is switched off",
    "index_not_ready": "The vector index cannot be queried yet",
    "model_mismatch": "The encoder does not fit the database",
    "encoder_unavailable": "The encoder cannot be used",
    "busy": "All places for this work are taken",
    "database_unavailable": "The database cannot be reached",
    "rate_limited": "Too many requests",
    "no_face": "No face was found",
    "unsupported_image": "This is not a picture that the service reads",
    "unsupported_media_type": "This content type is not accepted here",
    "image_too_large": "The picture has too many bytes",
    "invalid_image": "The picture cannot be used",
    "url_not_allowed": "This address may not be fetched",
    "fetch_failed": "The address could not be fetched",
    "invalid_request": "The request cannot be used",
    "request_too_large": "The request body is too large",
    "request_timeout": "The time for this request is over",
    "not_found": "Not found",
    "conflict": "The request contradicts the present state",
    "unauthorized": "A valid API key is needed",
    "forbidden": "Not permitted",
    "method_not_allowed": "This path does not take that method",
    "internal_error": "An unexpected error",
}

MEDIA_TYPE = "application/problem+json"
_HTTP_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
}
_HTTP_DETAILS = {
    404: "There is nothing at this path: /docs lists those that there are, all below /v1.",
    405: "This path does not take that method; the Allow header lists those that it takes.",
}
MOST_ERRORS = 10
"""A body below 2 kB names at most so many fields."""


class UnsupportedMediaType(e.LikenessError):
    """Send multipart/form-data or application/json, as the documentation of this route says."""

    code = "unsupported_media_type"


def status_of(error: e.LikenessError) -> int:
    """The HTTP status of an error; 500 when it has none of its own."""
    if isinstance(error, UnsupportedMediaType):
        return 415
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    errors: Sequence[e.FieldError] = (),
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    body: dict[str, object] = {
        "type": f"/docs#{code}",
        "title": TITLES.get(code, TITLES["internal_error"]),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": request_id,
    }
    if errors:
        body["errors"] = [
            {"field": item.field, "message": item.message} for item in errors[:MOST_ERRORS]
        ]
    body.update(extra or {})
    return Response(
        json.dumps(body, ensure_ascii=True).encode(),
        status_code=status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def from_error(error: e.LikenessError, request_id: str) -> Response:
    """The response for one of our own errors."""
    status = status_of(error)
    headers: dict[str, str] = {}
    extra: dict[str, object] = {}
    detail = error.detail
    code = error.code
    if isinstance(error, e.Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, e.ModelFileError):
        headers["Retry-After"] = "30"
        code = e.EncoderUnavailable.code
    if isinstance(error, e.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, e.InvalidImage):
        extra["reason"] = error.reason
    if status == 500:
        detail = "The service met an error of its own; the log has it under this request id."
        code = "internal_error"
    fields = error.errors if isinstance(error, e.InvalidRequest) else ()
    return problem(status, code, detail, request_id, errors=fields, extra=extra, headers=headers)


def from_http(error: HTTPException, request_id: str) -> Response:
    """The response for what the framework raises itself, such as 404 and 405."""
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    if error.status_code >= 500:
        code = "internal_error"
    detail = _HTTP_DETAILS.get(error.status_code, TITLES[code] + ".")
    return problem(error.status_code, code, detail, request_id, headers=error.headers)


def internal(request_id: str) -> Response:
    """The response for an exception that nobody foresaw."""
    return from_error(e.LikenessError(), request_id)


_SAYINGS = {
    "missing": "is required",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "string_unicode": "is not valid Unicode text",
}


def unknown(known: Sequence[str]) -> str:
    """What to say of a field that is not among `known`: its own name is input, and not repeated."""
    return f"unknown field; those that are known here are {', '.join(sorted(known))}"


def fields_of(
    errors: Iterable[ErrorDetails], *, skip: int = 0, known: Sequence[str] = ()
) -> list[e.FieldError]:
    """Pydantic's errors as ours, without any input; `skip` leading parts of each place are dropped.

    The name of an unknown field is the caller's input, so only the object that holds it is named,
    and for the whole body the fields that are `known`.
    """
    found = []
    for error in errors:
        place = [str(part) for part in error["loc"][skip:]]
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            place = place[:-1]
            message = unknown(known) if known and not place else "unknown field"
        message = _SAYINGS.get(error["type"], message)
        if "surrogate" in message:
            message = _SAYINGS["string_unicode"]
        found.append(e.FieldError(".".join(place) or "body", message))
    return found


def invalid(fields: Sequence[e.FieldError]) -> e.InvalidRequest:
    """The error for these fields; a request with hundreds of faults gets the first few told."""
    told = "; ".join(f"{item.field}: {item.message}" for item in fields[:3])
    more = f"; and {len(fields) - 3} more" if len(fields) > 3 else ""
    return e.InvalidRequest(told + more, errors=fields[:MOST_ERRORS])


def from_validation(error: RequestValidationError, request_id: str) -> Response:
    """The response for path and query parameters that do not fit."""
    return from_error(invalid(fields_of(error.errors(), skip=1)), request_id)
