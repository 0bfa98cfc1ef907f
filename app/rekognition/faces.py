"""Faces of a collection: index a picture's, list them, delete some."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from app.rekognition import details, ids, images, tokens
from app.rekognition.call import Answer, Call
from app.rekognition.faults import BadToken, InvalidParameter
from app.routes import media
from faces import identity
from faces.errors import Conflict, NotFound, OtherPicture
from faces.records import API_SOURCE, Item, StoredFace
from faces.types import PIPELINE_VERSION, Analysis, Face, MediaInfo, MediaRef

DEFAULT_PAGE = 1000
_MEDIA_ID = 255


class _Began(NamedTuple):
    """The item's revision when the work on its picture began, and when its collection was made."""

    rev: int
    since: dt.datetime


def index(call: Call) -> Answer:
    """Stores the largest faces that pass the filter, MaxFaces at most; the rest is listed, too.

    The same picture under the same ExternalImageId is not stored twice, and keeps the faces that
    it has. A face that was deleted is stored again.
    """
    since = call.parts.store.collection(call.collection).created_at
    data = images.picture(call)
    content = hashlib.sha256(data).hexdigest()
    try:
        return _index(call, since, data, *_place(call, content))
    except OtherPicture:  # another picture came under this id at the same moment
        return _index(call, since, data, *_place(call, content))


def _index(call: Call, since: dt.datetime, data: bytes, media_id: str, old: Item | None) -> Answer:
    least, most = images.bar(call), call.given.get("MaxFaces")
    # From before the picture is looked at: what is deleted meanwhile stays deleted.
    began = _Began(old.rev if old else call.parts.store.rev(call.collection, media_id), since)
    wanted: list[int] = []

    def choose(faces: Sequence[Face]) -> list[int]:
        wanted[:] = [i for i, face in enumerate(faces) if face.quality >= least][:most]
        boxes = [face.detection.box for face in faces]
        stored = identity.match_boxes([face.box for face in old.faces] if old else [], boxes)
        kept = {i for i, match in enumerate(stored) if match is not None}
        return sorted(kept.union(wanted))

    active = call.model
    analysis = images.analyse(call, data, choose=choose, model=active.key)
    chosen = [analysis.faces[i] for i in wanted]
    stored = (
        old.faces
        if old and old.source != API_SOURCE
        else _store(call, media_id, old, began, data, analysis, chosen)
    )
    records, left_out = [], []
    matched = identity.match_boxes(
        [face.box for face in stored], [face.detection.box for face in chosen]
    )
    external = call.given.get("ExternalImageId")
    for face, place in zip(chosen, matched, strict=True):
        detail = details.found_face(face, analysis.picture)
        if place is None:
            # Erased for good, or not what the source's own run stored.
            left_out.append({"FaceDetail": detail, "Reasons": []})
        else:
            shown = details.stored_face(stored[place], external, active.key)
            records.append({"Face": shown, "FaceDetail": detail})
    left_out += [_left_out(analysis, i, least) for i in _rest(analysis, wanted)]
    return {
        "FaceRecords": records,
        "UnindexedFaces": left_out,
        "FaceModelVersion": details.model_version(active.key),
    }


def _place(call: Call, content: str) -> tuple[str, Item | None]:
    """The media id for the picture, and its item when it is there."""
    external = call.given.get("ExternalImageId")
    if external is None:
        media_id = ids.nameless(content)
        return media_id, _item(call, media_id)
    media_id = call.media_id(external)
    item = _item(call, media_id)
    # An item of our own without a hash never held a picture: it failed.
    if item is None or item.sha256 == content:
        return media_id, item
    if item.source == API_SOURCE and item.sha256 is None:
        return media_id, item
    more = ids.another(media_id, content)
    if len(more) > _MEDIA_ID:
        raise InvalidParameter(
            f"ExternalImageId: another picture has it, and only one with at most "
            f"{_MEDIA_ID - 21} characters can name more than one."
        )
    return more, _item(call, more)


def _item(call: Call, media_id: str) -> Item | None:
    try:
        return call.parts.store.item(call.collection, media_id)
    except NotFound:
        return None


def _store(
    call: Call,
    media_id: str,
    old: Item | None,
    began: _Began,
    data: bytes,
    analysis: Analysis,
    chosen: Sequence[Face],
) -> Sequence[StoredFace]:
    """The item's faces once the chosen ones are stored, too."""
    parts, store = call.parts, call.parts.store
    boxes = [face.detection.box for face in chosen]
    if old is not None and None in identity.match_boxes([f.box for f in old.faces], boxes):
        store.forget_picture(call.collection, media_id)
    info = _as_stored(old) if old is not None else MediaInfo()
    active = call.model
    try:
        result = store.put_item(
            MediaRef(call.collection, media_id, API_SOURCE, media_id),
            info,
            analysis,
            content=analysis.picture.sha256,
            pipeline_version=PIPELINE_VERSION,
            began_rev=began.rev,
            since=began.since,
            also=media.upcoming(parts, call.client, data, analysis, active),
            crops=media.crops(parts, call.client, data, analysis, fetchable=info.url is not None),
            keep_other=True,
            again=_as_stored,
        )
    except OtherPicture:
        raise
    except Conflict as error:
        raise InvalidParameter(f"ExternalImageId: {error.detail}") from error
    return store.shown(call.collection, result.faces)


def _as_stored(item: Item) -> MediaInfo:
    return MediaInfo(
        item.url, item.title, item.taken_at, dict(item.metadata), item.etag, hidden=item.hidden
    )


def _rest(analysis: Analysis, wanted: Sequence[int]) -> list[int]:
    return sorted(set(range(len(analysis.faces))) - set(wanted))


def _left_out(analysis: Analysis, place: int, least: float) -> dict[str, Any]:
    face = analysis.faces[place]
    passed = face.quality >= least
    return {
        "FaceDetail": details.found_face(face, analysis.picture),
        "Reasons": ["EXCEEDS_MAX_FACES"] if passed else details.reasons(face.reasons),
    }


def page(call: Call) -> Answer:
    """Faces of the collection, of a user of it, or those named."""
    store, collection = call.parts.store, call.collection
    user, named = call.given.get("UserId"), call.given.get("FaceIds")
    limit = call.given["MaxResults"] or DEFAULT_PAGE
    token = call.given.get("NextToken") or None
    store.collection(collection)
    if user is not None:
        store.subjects.get(collection, user)
    if named is not None:
        items, following = _named(call, list(dict.fromkeys(named)), user, limit, token)
    else:
        found = tokens.page(
            lambda cursor: store.faces(collection, subject_id=user, limit=limit, cursor=cursor),
            token,
            store.aliases,
        )
        items, following = list(found.items), found.next_cursor
    answer: Answer = {
        "Faces": shown(call, items),
        "FaceModelVersion": details.model_version(call.model.key),
    }
    if following is not None:
        answer["NextToken"] = following
    return answer


def _named(
    call: Call, face_ids: Sequence[str], user: str | None, limit: int, token: str | None
) -> tuple[list[StoredFace], str | None]:
    """The named faces that are there; the token is how many names the pages before took."""
    if token is not None and not (token.isascii() and token.isdigit() and len(token) < 6):
        raise BadToken
    start = int(token or 0)
    part = face_ids[start : start + limit]
    found = call.parts.store.faces_by_id(call.collection, part)
    faces = [found[face_id] for face_id in part if face_id in found]
    faces = [face for face in faces if user is None or face.subject_id == user]
    return faces, str(start + limit) if start + limit < len(face_ids) else None


def shown(call: Call, faces: Sequence[StoredFace]) -> list[dict[str, Any]]:
    """The protocol's Face of each."""
    external = call.external_ids({face.face_id: face for face in faces})
    model = call.model.key
    return [details.stored_face(face, external.get(face.media_id), model) for face in faces]


def delete(call: Call) -> Answer:
    """Removes faces; those of a user stay until they are disassociated."""
    store, collection = call.parts.store, call.collection
    named = list(dict.fromkeys(call.given["FaceIds"]))
    found = store.faces_by_id(collection, named)
    free = [found[f] for f in named if f in found and found[f].subject_id is None]
    store.delete_faces(collection, free)
    # One that was given to a user at this very moment is still there.
    still = store.faces_by_id(collection, [face.face_id for face in free])
    gone = {face.face_id: None for face in free if face.face_id not in still}
    found |= still
    return {
        "DeletedFaces": list(gone),
        "UnsuccessfulFaceDeletions": [
            _undeleted(face_id, found.get(face_id)) for face_id in named if face_id not in gone
        ],
    }


def _undeleted(face_id: str, face: StoredFace | None) -> dict[str, Any]:
    if face is None:
        return {"FaceId": face_id, "Reasons": ["FACE_NOT_FOUND"]}
    return {
        "FaceId": face_id,
        "UserId": face.subject_id,
        "Reasons": ["ASSOCIATED_TO_AN_EXISTING_USER"],
    }
