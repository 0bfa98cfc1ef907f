"""Collections: create, describe, list, delete."""

from __future__ import annotations

import time

from app.rekognition import details, tokens
from app.rekognition.call import Answer, Call
from app.rekognition.faults import AlreadyExists, BadToken, InvalidParameter
from faces.errors import Busy, Conflict, Forbidden, NotFound
from faces.records import CollectionInfo, Page

GOING_S = 10.0
"""How long a new collection waits for the old one of its name to be gone."""
_POLL_S = 0.25
DEFAULT_PAGE = 1000


def create(call: Call) -> Answer:
    """A new collection. One of the same name that is still being deleted is waited for."""
    name = call.given["CollectionId"]
    if not call.caller.sees(name):
        raise Forbidden("This access key is bound to other collections.")
    version = details.model_version(call.model.key)
    limit = min(time.monotonic() + GOING_S, call.client.deadline - 1.0)
    while True:
        try:
            call.parts.store.create_collection(name)
            break
        except Conflict:
            if _present(call, name):
                raise AlreadyExists("CollectionId: there is a collection of that name.") from None
            if time.monotonic() > limit or call.client.gone.wait(_POLL_S):
                raise Busy(
                    "The collection of that name is still being deleted: try again.",
                    retry_after=2,
                ) from None
    return {
        "StatusCode": 200,
        "CollectionArn": _arn(call, name),
        "FaceModelVersion": version,
    }


def delete(call: Call) -> Answer:
    """Hides the collection at once; a job of the worker removes all that it holds."""
    try:
        call.parts.store.delete_collection(call.collection)
    except Conflict as error:
        raise InvalidParameter(f"CollectionId: {error.detail}") from error
    return {"StatusCode": 200}


def describe(call: Call) -> Answer:
    """One collection with its counts."""
    info = call.parts.store.collection(call.collection, counts=True)
    return {
        "FaceCount": info.faces or 0,
        "UserCount": info.subjects or 0,
        "FaceModelVersion": details.model_version(call.model.key),
        "CollectionARN": _arn(call, info.name),
        "CreationTimestamp": round(info.created_at.timestamp(), 3),
    }


def page(call: Call) -> Answer:
    """The collections that the key reaches, by name."""
    store, token = call.parts.store, call.given.get("NextToken")
    limit = call.given["MaxResults"] or DEFAULT_PAGE
    if call.caller.collections is None:
        found = tokens.page(lambda cursor: store.collections(limit, cursor), token, store.aliases)
    else:
        found = _bound(call, limit, token)
    version = details.model_version(call.model.key)
    answer: Answer = {
        "CollectionIds": [info.name for info in found.items],
        "FaceModelVersions": [version] * len(found.items),
    }
    if found.next_cursor is not None:
        answer["NextToken"] = found.next_cursor
    return answer


def _bound(call: Call, limit: int, token: str | None) -> Page[CollectionInfo]:
    """A bound key names its collections itself; the token is the last name of the page before."""
    bound = sorted(call.caller.collections or ())
    if token and token not in bound:
        raise BadToken
    names = [name for name in bound if name > (token or "")]
    names = [name for name in names if _present(call, name)]
    items = tuple(call.parts.store.collection(name) for name in names[:limit])
    return Page(items, names[limit - 1] if len(names) > limit else None)


def _present(call: Call, name: str) -> bool:
    try:
        call.parts.store.collection(name)
    except NotFound:
        return False
    return True


def _arn(call: Call, name: str) -> str:
    return f"arn:aws:rekognition:{call.region}:000000000000:collection/{name}"
