"""Users, which are /v1's subjects: create, delete, list, and the faces that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.rekognition import tokens
from app.rekognition.call import Answer, Call, scale_of
from faces.records import StoredFace
from faces.search import reaches
from faces.types import Vector

Failure = dict[str, Any]
SPARE_S = 1.0
"""So long before its deadline a request that waits for another one is told to come again."""
MOST_OWN = 100
"""A face is compared with so many of the user's, the best in quality."""


def once(make: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
    """The change, made once for each ClientRequestToken."""

    def change(call: Call) -> Answer:
        who, client = call.caller.name, call.client
        with call.tokens.alone(who, call.given, client.gone, client.deadline - SPARE_S):
            told = call.tokens.answer(who, call.operation, call.given)
            if told is not None:
                return told
            answer = make(call)
            call.tokens.made(who, call.operation, call.given, answer)
            return answer

    return change


def create(call: Call) -> Answer:
    """A new user without faces. Raises Conflict when there is one of that id."""
    call.parts.store.subjects.create(call.collection, call.given["UserId"])
    return {}


def delete(call: Call) -> Answer:
    """The user is gone; the faces stay, without a user."""
    call.parts.store.subjects.delete(call.collection, call.given["UserId"])
    return {}


def page(call: Call) -> Answer:
    """The users of a collection; one without faces is CREATED, else ACTIVE."""
    store, collection = call.parts.store, call.collection
    limit = call.given["MaxResults"]
    store.collection(collection)
    found = tokens.page(
        lambda cursor: store.subjects.list(collection, limit=limit, cursor=cursor),
        call.given.get("NextToken"),
        store.aliases,
    )
    answer: Answer = {
        "Users": [
            {"UserId": user.subject_id, "UserStatus": _status(user.face_count)}
            for user in found.items
        ]
    }
    if found.next_cursor is not None:
        answer["NextToken"] = found.next_cursor
    return answer


def associate(call: Call) -> Answer:
    """Gives faces to a user, each of which has to look like one that the user has by then.

    To a user without faces the first one given goes, and the others have to look like what is
    theirs by then. Faces that the user has are left alone, and not told of.
    """
    store, collection, user = call.parts.store, call.collection, call.given["UserId"]
    subject = store.subjects.get(collection, user)
    named = list(dict.fromkeys(call.given["FaceIds"]))
    found = store.faces_by_id(collection, named)
    free = [f for f in named if (face := found.get(f)) is not None and face.subject_id is None]
    failed = _taken(named, found, user)
    taken, unlike = _alike(call, user, free)
    if taken:
        theirs = store.subjects.assign_free(collection, user, taken)
        if lost := [face_id for face_id in taken if face_id not in theirs]:  # to others, meanwhile
            failed += _taken(lost, store.faces_by_id(collection, lost), user)
            taken = [face_id for face_id in taken if face_id in theirs]
    return {
        "AssociatedFaces": [{"FaceId": face_id} for face_id in taken],
        "UnsuccessfulFaceAssociations": failed + unlike,
        "UserStatus": _status((subject.face_count or 0) + len(taken)),
    }


def _taken(named: Sequence[str], found: Mapping[str, StoredFace], user: str) -> list[Failure]:
    """Why faces cannot become the user's: those that are not there, and those of others."""
    failed = []
    for face_id in named:
        face = found.get(face_id)
        if face is None:
            failed.append(_failure(face_id, "FACE_NOT_FOUND"))
        elif face.subject_id not in (None, user):
            failed.append(
                _failure(face_id, "ASSOCIATED_TO_A_DIFFERENT_USER", UserId=face.subject_id)
            )
    return failed


def _alike(call: Call, user: str, free: Sequence[str]) -> tuple[list[str], list[Failure]]:
    """Those of the faces that may become the user's, and the others with their confidence."""
    collection, active, finder = call.collection, call.model, call.parts.finder
    curve = scale_of(active.key)
    least = curve.cosine(call.given["UserMatchThreshold"])
    vectors = finder.stored(collection, active, face_ids=free, limit=len(free)) if free else {}
    theirs = list(finder.stored(collection, active, subject_id=user, limit=MOST_OWN).values())
    taken: set[str] = set()
    waiting = [face_id for face_id in free if face_id in vectors]
    if not theirs and waiting:
        theirs.append(vectors[waiting[0]])
    while fitting := [f for f in waiting if reaches(_best(vectors[f], theirs), least)]:
        taken.update(fitting)
        theirs += [vectors[face_id] for face_id in fitting]
        waiting = [face_id for face_id in waiting if face_id not in taken]
    unlike = []
    for face_id in free:
        if face_id not in taken:
            best = _best(vectors[face_id], theirs) if face_id in vectors else -1.0
            unlike.append(
                _failure(face_id, "LOW_MATCH_CONFIDENCE", Confidence=round(curve.percent(best), 4))
            )
    return [face_id for face_id in free if face_id in taken], unlike


def disassociate(call: Call) -> Answer:
    """Takes faces from a user; they stay in the collection."""
    store, collection, user = call.parts.store, call.collection, call.given["UserId"]
    store.subjects.get(collection, user)
    named = list(dict.fromkeys(call.given["FaceIds"]))
    found = store.faces_by_id(collection, named)
    freed: list[str] = []
    failed: list[Failure] = []
    for face_id in named:
        face = found.get(face_id)
        if face is None or face.subject_id is None:
            failed.append(_failure(face_id, "FACE_NOT_FOUND"))
        elif face.subject_id != user:
            failed.append(
                _failure(face_id, "ASSOCIATED_TO_A_DIFFERENT_USER", UserId=face.subject_id)
            )
        else:
            freed.append(face_id)
    if freed:
        store.subjects.unassign(collection, user, freed)
    left = store.subjects.get(collection, user).face_count
    return {
        "DisassociatedFaces": [{"FaceId": face_id} for face_id in freed],
        "UnsuccessfulFaceDisassociations": failed,
        "UserStatus": _status(left),
    }


def _best(vector: Vector, known: Sequence[Vector]) -> float:
    return max((float(vector @ other) for other in known), default=-1.0)


def _failure(face_id: str, reason: str, **more: Any) -> Failure:
    return {"FaceId": face_id, "Reasons": [reason], **more}


def _status(faces: int | None) -> str:
    return "ACTIVE" if faces else "CREATED"
