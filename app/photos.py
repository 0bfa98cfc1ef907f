"""From a request to a picture's bytes, and from bytes to faces: what photo routes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.bodies import exactly_one
from app.deps import Client
from app.services import Services
from faces.errors import FetchFailed, ImageTooLarge, InvalidRequest
from faces.types import Analysis, Detection, Face

Choose = Callable[[Sequence[Face]], Sequence[int]]
PICTURE_FORMS = ("image", "image_url", "image_base64")


def fetch(parts: Services, client: Client, url: str) -> bytes:
    """The bytes behind an allow-listed URL. Raises UrlNotAllowed, FetchFailed, ImageTooLarge or
    Busy."""
    cap = parts.settings.max_upload_bytes
    with parts.fetch_gate.place(client.gone, client.deadline):
        try:
            body = parts.fetcher.get(url, max_bytes=cap).body
        except FetchFailed as error:
            if error.reason == "too_large":
                raise ImageTooLarge(f"image_url: more than {cap} bytes.") from error
            raise
    client.take(len(body))
    return body


def picture(
    parts: Services,
    client: Client,
    sent: bytes | None,
    url: str | None,
    encoded: str | None,
    *,
    field: str | None = None,
) -> bytes:
    """The one picture that was given, as a part, as base64 or by URL."""
    given = [
        name
        for name, there in (
            ("image", sent is not None and encoded is None),
            ("image_base64", encoded is not None),
            ("image_url", url is not None),
        )
        if there
    ]
    if field is not None and not given:
        raise InvalidRequest.field(field, "is required")
    exactly_one(given, PICTURE_FORMS)
    if sent is not None:
        return sent
    if url is None:
        raise InvalidRequest.field("image_base64", "must be text")
    return fetch(parts, client, url)


def analyse(
    parts: Services,
    client: Client,
    data: bytes,
    operation: str,
    *,
    choose: Choose | None = None,
    known: Sequence[Detection] | None = None,
    model: str | None = None,
) -> Analysis:
    """The picture's faces, worked out behind the gate. Raises as the pipeline and the gate do."""
    with parts.engine.pipeline(model) as pipeline, parts.gate.place(client.gone, client.deadline):
        if known is not None:
            analysis = pipeline.embed_known(data, known, cancelled=client.gone.is_set)
        else:
            analysis = pipeline.analyse(data, choose=choose, cancelled=client.gone.is_set)
    parts.metrics.stages(analysis.timings_ms)
    parts.metrics.faces(operation, len(analysis.faces))
    return analysis


def none(faces: Sequence[Face]) -> list[int]:
    """A `choose` that encodes no face: detection only."""
    return []
