"""Small renditions of pictures, from their source or from a kept crop."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from app.deps import ClientDep, CollectionPath, SearchCaller, ServicesDep, UuidPath

router = APIRouter(tags=["media"])
CACHE = "private, max-age=3600"


@router.get(
    "/v1/collections/{collection}/thumbnails/{image_id}",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "Not changed since the ETag that was sent."},
    },
)
def thumbnail(
    parts: ServicesDep,
    caller: SearchCaller,
    collection: CollectionPath,
    image_id: UuidPath,
    client: ClientDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A JPEG of at most 320 px: the picture where its source can be read, else a kept crop."""
    item, crop = parts.store.picture(caller.enter(collection), image_id)
    headers = {"etag": f'"{image_id}"', "cache-control": CACHE}
    if if_none_match == headers["etag"]:
        return Response(status_code=304, headers=headers)
    jpeg, lasting = parts.thumbnail(item, crop, client.gone, client.deadline)
    if not lasting:
        headers = {"cache-control": "no-store"}
    return Response(jpeg, media_type="image/jpeg", headers=headers)
