"""Indexed faces: list, look at one, delete one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator
from starlette.responses import Response

from app.deps import (
    SUBJECT_PATTERN,
    CollectionPath,
    IndexCaller,
    PagingDep,
    SearchCaller,
    ServicesDep,
    UuidPath,
)
from app.forms import media_id as checked_media_id
from app.schemas import FaceDeleted, StoredFace
from app.wire import Page, answer

router = APIRouter(tags=["faces"])


def _optional_media_id(value: str | None) -> str | None:
    return None if value is None else checked_media_id(value)


@router.get("/v1/collections/{collection}/faces", response_model=Page[StoredFace])
def list_faces(
    parts: ServicesDep,
    caller: SearchCaller,
    collection: CollectionPath,
    paging: PagingDep,
    media_id: Annotated[
        str | None, Query(min_length=1, max_length=255), AfterValidator(_optional_media_id)
    ] = None,
    subject_id: Annotated[str | None, Query(pattern=SUBJECT_PATTERN)] = None,
) -> Response:
    """The faces of a collection, of one picture, or of one subject."""
    page = parts.store.faces(
        caller.enter(collection),
        media_id=media_id,
        subject_id=subject_id,
        limit=paging.limit,
        cursor=paging.cursor,
    )
    return answer(
        Page[StoredFace](
            items=[StoredFace.of(face) for face in page.items], next_cursor=page.next_cursor
        )
    )


@router.get("/v1/faces/{face_id}", response_model=StoredFace)
def get_face(parts: ServicesDep, caller: SearchCaller, face_id: UuidPath) -> Response:
    """One face."""
    return answer(StoredFace.of(parts.store.face(face_id, _within(caller.collections))))


@router.delete("/v1/faces/{face_id}", response_model=FaceDeleted)
def delete_face(parts: ServicesDep, caller: IndexCaller, face_id: UuidPath) -> Response:
    """Delete one face; it does not come back while its picture stays."""
    within = _within(caller.collections)
    face = parts.store.face(face_id, within)
    parts.store.delete_face(face_id, within)
    return answer(FaceDeleted(face_id=face_id, media_id=face.media_id))


def _within(collections: frozenset[str] | None) -> list[str] | None:
    return None if collections is None else sorted(collections)
