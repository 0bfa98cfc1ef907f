"""The CMS's push hook: a signed word that one picture changed or went."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from app import bodies, strictjson
from app.bodies import JSON_CAP, validate
from app.deps import ExchangeDep, ServicesDep
from app.forms import HookForm
from app.routes.collections import accepted
from app.schemas_service import JobAccepted
from faces.errors import Forbidden, InvalidRequest, Unauthorized
from faces.hook_jobs import note

router = APIRouter(tags=["hooks"])
MOST_SECONDS = 300
"""How old a signature may be, and how far ahead a clock."""


async def signed(parts: ServicesDep, exchange: ExchangeDep) -> HookForm:
    """The event, when its signature is right and fresh."""
    secret = parts.settings.cms_hook_secret
    if secret is None or not secret.get_secret_value():
        raise Forbidden("The hook is switched off: set CMS_HOOK_SECRET to let the CMS call it.")
    body = await bodies.raw(exchange, JSON_CAP, parts.strangers)
    stamp = exchange.headers.get(b"x-timestamp", b"")
    made = hmac.new(secret.get_secret_value().encode(), stamp + b"." + body, hashlib.sha256)
    sent = exchange.headers.get(b"x-signature", b"")
    if not hmac.compare_digest(b"sha256=" + made.hexdigest().encode(), sent):
        raise Unauthorized("X-Signature must be sha256= and the HMAC of timestamp, dot and body.")
    if not stamp.isdigit() or len(stamp) > 12 or abs(time.time() - int(stamp)) > MOST_SECONDS:
        raise Unauthorized(
            f"X-Timestamp must be Unix seconds within {MOST_SECONDS} seconds of now."
        )
    values = strictjson.parse(body)
    if not isinstance(values, dict):
        raise InvalidRequest.field("body", "must be a JSON object")
    return validate(HookForm, values, strict=True)


@router.post("/v1/hooks/cms", response_model=JobAccepted, status_code=202)
def cms_hook(
    parts: ServicesDep,
    event: Annotated[HookForm, Depends(signed)],
    x_timestamp: Annotated[str, Header(description="Unix seconds.")] = "",
    x_signature: Annotated[
        str, Header(description="`sha256=` and the hex HMAC-SHA256 of `timestamp.body`.")
    ] = "",
) -> Response:
    """Look at one picture of the configured source again: it changed, or it is gone."""
    collection = parts.settings.cms_collection
    return accepted(note(parts.store.jobs, collection, event.event, event.source_key))
