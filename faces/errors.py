"""Every error that Likeness raises on purpose.

    LikenessError
    ├── InvalidRequest            the caller's fault: a field, a cursor, a filter
    │   └── MalformedRequest      it could not even be parsed
    ├── NotFound
    ├── Conflict
    │   ├── Tombstoned            deleted through the API; its source may not bring it back
    │   └── OtherPicture          the id has another picture, which is to be kept
    ├── Unauthorized
    ├── Forbidden
    ├── RequestTooLarge
    ├── RequestTimeout            the body came too slowly
    ├── DeadlineExceeded          our own deadline passed
    ├── ImageError
    │   ├── UnsupportedImage      not a format that we decode
    │   ├── ImageTooLarge         more bytes than the cap
    │   ├── InvalidImage          right format, unusable content; has a `reason`
    │   └── NoFace
    ├── FetchError
    │   ├── UrlNotAllowed
    │   └── FetchFailed
    ├── Unavailable               try again later; has `retry_after`
    │   ├── RateLimited
    │   ├── Loading
    │   ├── FaceRecognitionDisabled
    │   ├── EncoderUnavailable
    │   ├── IndexNotReady
    │   ├── Busy
    │   └── DatabaseUnavailable
    │       └── StorageFull
    ├── Cancelled                 the caller went away; nothing was done
    ├── ModelMismatch
    ├── LeaseLost                 another holder has the lease; nothing was written
    ├── ConfigError               a setting is missing or malformed
    └── ModelFileError            a model file is missing, wrong or cannot be made

`code` is the stable code of the HTTP contract. The class docstring is the message a user reads when
no better `detail` is given. A detail never holds a photo, an embedding, a key, a personal name or
the caller's own input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault: its dotted name and a sentence that names the limit."""

    field: str
    message: str


class LikenessError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        super().__init__(self.detail)


class InvalidRequest(LikenessError):
    """The request was understood, but a field in it cannot be used."""

    code = "invalid_request"

    def __init__(self, detail: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        self.errors = tuple(errors)
        if detail is None and self.errors:
            detail = "; ".join(f"{e.field}: {e.message}" for e in self.errors)
        super().__init__(detail)

    @classmethod
    def field(cls, name: str, message: str) -> InvalidRequest:
        """The error for one field."""
        return cls(errors=[FieldError(name, message)])


class MalformedRequest(InvalidRequest):
    """The request could not be parsed."""


class NotFound(LikenessError):
    """There is no such object."""

    code = "not_found"


class Conflict(LikenessError):
    """The request contradicts the present state."""

    code = "conflict"


class Tombstoned(Conflict):
    """The item was deleted through the API: only a PUT through the API brings it back."""


class OtherPicture(Conflict):
    """The item holds another picture."""


class Unauthorized(LikenessError):
    """A valid API key is needed: send it as X-API-Key or as a bearer token."""

    code = "unauthorized"


class Forbidden(LikenessError):
    """This key may not do that."""

    code = "forbidden"


class RequestTooLarge(LikenessError):
    """The request body is larger than its cap."""

    code = "request_too_large"


class RequestTimeout(LikenessError):
    """The request body came too slowly."""

    code = "request_timeout"


class DeadlineExceeded(LikenessError):
    """The work did not finish within the service's own deadline."""

    code = "request_timeout"


class ImageError(LikenessError):
    """The picture cannot be used."""


class UnsupportedImage(ImageError):
    """The file is not a JPEG, PNG or WebP picture by its bytes."""

    code = "unsupported_image"


class ImageTooLarge(ImageError):
    """The picture has more bytes than the cap."""

    code = "image_too_large"


class InvalidImage(ImageError):
    """The picture cannot be decoded."""

    code = "invalid_image"

    def __init__(self, reason: str, detail: str | None = None) -> None:
        self.reason = reason
        super().__init__(detail)


class NoFace(ImageError):
    """No face was found in the picture."""

    code = "no_face"


class FetchError(LikenessError):
    """The URL could not be fetched."""

    code = "fetch_failed"


class UrlNotAllowed(FetchError):
    """The URL is outside the addresses that this service may fetch from (MEDIA_ALLOWED_HOSTS)."""

    code = "url_not_allowed"


class FetchFailed(FetchError):
    """The URL could not be fetched."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        reason: str = "unreachable",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        super().__init__(detail)


class Unavailable(LikenessError):
    """The service cannot answer this at the moment."""

    def __init__(self, detail: str | None = None, retry_after: float = 2.0) -> None:
        self.retry_after = retry_after
        super().__init__(detail)


class RateLimited(Unavailable):
    """Too many requests: wait and try again."""

    code = "rate_limited"


class Loading(Unavailable):
    """The models are still loading."""

    code = "loading"


class FaceRecognitionDisabled(Unavailable):
    """Face recognition is switched off (FACE_RECOGNITION_ENABLED=false)."""

    code = "face_recognition_disabled"


class EncoderUnavailable(Unavailable):
    """The encoder cannot be used: run `python -m faces.models verify` to see why."""

    code = "encoder_unavailable"


class IndexNotReady(Unavailable):
    """The vector index cannot be queried yet."""

    code = "index_not_ready"


class Busy(Unavailable):
    """All places for this kind of work are taken."""

    code = "busy"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""

    code = "database_unavailable"


class StorageFull(DatabaseUnavailable):
    """The database refuses writes because its storage quota is used up."""


class Cancelled(LikenessError):
    """The caller went away before its turn came; nothing was done."""

    code = "request_timeout"


class ModelMismatch(LikenessError):
    """The encoder cannot make the vectors of the database's active model."""

    code = "model_mismatch"


class LeaseLost(LikenessError):
    """Another process holds the lease; nothing was written."""

    code = "conflict"


class ConfigError(LikenessError):
    """The configuration cannot be used."""


class ModelFileError(LikenessError):
    """A model file is missing or wrong."""
