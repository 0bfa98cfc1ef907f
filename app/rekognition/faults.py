"""The protocol's errors: which name and status each of ours has, and how an error looks.

Clients read the name from `__type`; the retryable ones are those that they retry by themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import ClassVar

from starlette.responses import Response

from faces import errors as e

MEDIA_TYPE = "application/x-amz-json-1.1"
_TOO_LARGE_REASONS = ("too_many_pixels", "too_many_scans")
_PARAMETER_REASONS = ("dimensions", "empty")


class Fault(e.LikenessError):
    """An error that only the dialect has, by its protocol name."""

    name: ClassVar[str] = "InvalidParameterException"


class InvalidParameter(Fault):
    """A parameter cannot be used."""

    name = "InvalidParameterException"


class Serialization(Fault):
    """The body is not the JSON that this operation takes."""

    name = "SerializationException"


class UnknownOperation(Fault):
    """X-Amz-Target must name a supported operation, such as RekognitionService.IndexFaces."""

    name = "UnknownOperationException"


class MissingToken(Fault):
    """The request is not signed: sign it with an access key of AWS_DIALECT_KEYS."""

    name = "MissingAuthenticationTokenException"


class IncompleteSignature(Fault):
    """The Authorization header is not a whole Signature Version 4 header."""

    name = "IncompleteSignatureException"


class UnknownKey(Fault):
    """No entry of AWS_DIALECT_KEYS has this access key."""

    name = "UnrecognizedClientException"


class WrongSignature(Fault):
    """The signature does not match the request: check the secret key and what is signed."""

    name = "InvalidSignatureException"


class AlreadyExists(Fault):
    """There is one of that name already."""

    name = "ResourceAlreadyExistsException"


class NoSuchObject(Fault):
    """The object of Image.S3Object cannot be read here."""

    name = "InvalidS3ObjectException"


class BadToken(Fault):
    """NextToken: is not a token that this list gave; start without one."""

    name = "InvalidPaginationTokenException"


class TokenMismatch(Fault):
    """ClientRequestToken: was used before with other parameters."""

    name = "IdempotentParameterMismatchException"


class Quota(Fault):
    """A quota is used up."""

    name = "ServiceQuotaExceededException"


NAMES: Mapping[type[e.LikenessError], str] = {
    e.MalformedRequest: "SerializationException",
    e.InvalidRequest: "InvalidParameterException",
    e.NotFound: "ResourceNotFoundException",
    e.Conflict: "ConflictException",
    e.Unauthorized: "UnrecognizedClientException",
    e.Forbidden: "AccessDeniedException",
    e.RequestTooLarge: "RequestEntityTooLargeException",
    e.RequestTimeout: "RequestTimeoutException",
    e.DeadlineExceeded: "ThrottlingException",
    e.Cancelled: "ThrottlingException",
    e.UnsupportedImage: "InvalidImageFormatException",
    e.ImageTooLarge: "ImageTooLargeException",
    e.InvalidImage: "InvalidImageFormatException",
    e.NoFace: "InvalidParameterException",
    e.FaceRecognitionDisabled: "AccessDeniedException",
    e.RateLimited: "ProvisionedThroughputExceededException",
    e.StorageFull: "ServiceQuotaExceededException",
    e.Unavailable: "ThrottlingException",
    e.ModelFileError: "ThrottlingException",
    e.LeaseLost: "ThrottlingException",
}
INTERNAL = "InternalServerError"


def name_of(error: e.LikenessError) -> str:
    """The protocol's name of an error; InternalServerError when it has none."""
    if isinstance(error, Fault):
        return error.name
    if isinstance(error, e.InvalidImage):
        if error.reason in _TOO_LARGE_REASONS:
            return "ImageTooLargeException"
        if error.reason in _PARAMETER_REASONS:
            return "InvalidParameterException"
    for kind in type(error).__mro__:
        if kind in NAMES:
            return NAMES[kind]
    return INTERNAL


def response(error: e.LikenessError, request_id: str) -> Response:
    """The response for an error: 400, or 500 when the fault is the service's own."""
    name = name_of(error)
    # What must be mended by the operator is told; a fault of the code's is only logged.
    own = name == INTERNAL and not isinstance(error, e.ModelMismatch)
    message = "The service met an error of its own; its log has it." if own else error.detail
    headers = {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": name}
    if isinstance(error, e.Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return Response(
        json.dumps({"__type": name, "message": message}).encode(),
        status_code=500 if name == INTERNAL else 400,
        headers=headers,
        media_type=MEDIA_TYPE,
    )
