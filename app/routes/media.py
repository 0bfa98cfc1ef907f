"""Pictures of a collection: index one now, look at it, list them, delete one."""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import AfterValidator
from starlette.responses import Response

from app import photos
from app.bodies import Incoming, Shape
from app.deps import (
    Client,
    ClientDep,
    CollectionPath,
    FaceRoute,
    IndexCaller,
    PagingDep,
    SearchCaller,
    ServicesDep,
    body,
)
from app.forms import MediaForm
from app.forms import media_id as checked_media_id
from app.schemas import (
    Indexed,
    IndexedFace,
    MediaDeleted,
    MediaDetail,
    MediaItem,
    StoredFace,
    Unindexed,
)
from app.services import Services
from app.wire import Box, ImageSize, Page, answer
from faces.item_plan import ERASED
from faces.records import API_SOURCE, ActiveModel, Item, PutResult
from faces.types import Analysis, MediaInfo, MediaRef

router = APIRouter(tags=["media"])
PUT = Shape(MediaForm, pictures=("image",), json_fields=("metadata",))
PIPELINE_VERSION = "1"
MediaPath = Annotated[
    str,
    Path(
        min_length=1,
        max_length=255,
        description="1 to 255 printable characters, NFC; `/` is allowed.",
        examples=["2024/ada.jpg"],
    ),
    AfterValidator(checked_media_id),
]
ITEM = "/v1/collections/{collection}/media/{media_id:anything}"


@router.put(
    ITEM, response_model=Indexed, responses={201: {"model": Indexed, "description": "New."}}
)
def put_media(
    parts: ServicesDep,
    caller: IndexCaller,
    ready: FaceRoute,
    collection: CollectionPath,
    media_id: MediaPath,
    incoming: Annotated[Incoming[MediaForm], Depends(body(PUT))],
    client: ClientDep,
) -> Response:
    """Index a photo now. The same bytes again change nothing; other bytes replace it.

    201 when the item is new, 200 when it was there. Faces keep their ids, subjects and labels when
    the picture is replaced, as far as they are at the same place.
    """
    form = incoming.form
    ref = MediaRef(caller.enter(collection), media_id, API_SOURCE, media_id)
    since = parts.store.collection(collection).created_at
    began = parts.store.rev(collection, media_id)
    data = photos.picture(
        parts, client, incoming.pictures.get("image"), form.image_url, form.image_base64
    )
    content = hashlib.sha256(data).hexdigest()
    info = MediaInfo(
        url=form.image_url, title=form.title, taken_at=form.taken_at, metadata=form.metadata
    )
    again = functools.partial(_merged, form)
    active = parts.active_model()
    result = parts.store.unchanged(ref, content, PIPELINE_VERSION, active.key)
    if result is not None and not (active.both and active.next):
        if form.model_fields_set:
            parts.store.update_info(ref, again)
        return answer(_indexed(parts, result, active.key, {}))
    analysis = photos.analyse(parts, client, data, "index", model=active.key)
    result = parts.store.put_item(
        ref,
        info,
        analysis,
        content=content,
        min_quality=parts.settings.face_min_quality,
        pipeline_version=PIPELINE_VERSION,
        began_rev=began,
        also=upcoming(parts, client, data, analysis, active),
        crops=crops(parts, client, data, analysis, fetchable=form.image_url is not None),
        again=again,
        since=since,
    )
    indexed = _indexed(parts, result, active.key, analysis.timings_ms)
    return answer(indexed, 201 if result.created else 200)


def upcoming(
    parts: Services, client: Client, data: bytes, analysis: Analysis, active: ActiveModel
) -> tuple[Analysis, ...]:
    """The same faces by the next model, while a switch to it is being prepared."""
    if not (active.both and active.next) or not analysis.faces:
        return ()
    known = [face.detection for face in analysis.faces]
    return (photos.analyse(parts, client, data, "index", known=known, model=active.next.key),)


def crops(
    parts: Services, client: Client, data: bytes, analysis: Analysis, *, fetchable: bool
) -> dict[int, bytes]:
    """The crops to keep: of all faces, or only where the picture cannot be fetched again."""
    wish = parts.settings.keep_crops
    if wish == "off" or (wish == "uploads" and fetchable) or not analysis.faces:
        return {}
    kept = [
        position
        for position, face in enumerate(analysis.faces)
        if face.quality >= parts.settings.face_min_quality
    ]
    boxes = [analysis.faces[position].detection.box for position in kept]
    with parts.engine.pipeline() as pipeline, parts.gate.place(client.gone, client.deadline):
        return dict(zip(kept, pipeline.crops(data, boxes), strict=True))


def _merged(form: MediaForm, item: Item) -> MediaInfo:
    """What is stored of an unchanged picture, with what was sent in its place."""
    sent = form.model_fields_set
    return MediaInfo(
        url=form.image_url or item.url,
        title=form.title if "title" in sent else item.title,
        taken_at=form.taken_at if "taken_at" in sent else item.taken_at,
        metadata=form.metadata if "metadata" in sent else dict(item.metadata),
        etag=item.etag,
        hidden=item.hidden,
    )


def _indexed(parts: Services, result: PutResult, model: str, timings: dict[str, float]) -> Indexed:
    item = result.item
    shown = parts.store.shown(item.collection, result.faces)
    unindexed = [
        Unindexed(box=Box.of(entry.box), reason=entry.reason) for entry in result.unindexed
    ]
    unindexed += [
        Unindexed(box=Box.of(face.box), reason=ERASED) for face in result.faces if face not in shown
    ]
    return Indexed(
        media_id=item.media_id,
        image_id=item.image_id or "",
        collection=item.collection,
        model=model,
        unchanged=result.unchanged,
        searchable=parts.searchable(item, shown),
        faces=[
            IndexedFace(
                face_id=face.face_id,
                box=Box.of(face.box),
                confidence=face.confidence,
                quality=face.quality,
            )
            for face in shown
        ],
        unindexed=unindexed,
        image=ImageSize(width=item.width, height=item.height),
        timings_ms=timings,
    )


@router.get(ITEM, response_model=MediaDetail)
def get_media(
    parts: ServicesDep, caller: SearchCaller, collection: CollectionPath, media_id: MediaPath
) -> Response:
    """One picture with its faces."""
    item = parts.store.item(caller.enter(collection), media_id)
    return answer(
        MediaDetail(
            **MediaItem.fields(item),
            faces=[StoredFace.of(face) for face in item.faces],
            unindexed=[Unindexed(box=Box.of(u.box), reason=u.reason) for u in item.unindexed],
        )
    )


@router.delete(ITEM, response_model=MediaDeleted)
def delete_media(
    parts: ServicesDep, caller: IndexCaller, collection: CollectionPath, media_id: MediaPath
) -> Response:
    """Delete a picture with its faces. A source does not bring it back; an explicit PUT does."""
    count = parts.store.delete_item(
        caller.enter(collection), media_id, source=API_SOURCE, tombstone=True
    )
    return answer(MediaDeleted(media_id=media_id, faces_deleted=count))


@router.get("/v1/collections/{collection}/media", response_model=Page[MediaItem])
def list_media(
    parts: ServicesDep, caller: SearchCaller, collection: CollectionPath, paging: PagingDep
) -> Response:
    """The pictures of a collection by media id."""
    page = parts.store.items(caller.enter(collection), paging.limit, paging.cursor)
    return answer(
        Page[MediaItem](
            items=[MediaItem(**MediaItem.fields(item)) for item in page.items],
            next_cursor=page.next_cursor,
        )
    )
