"""Searches: the faces, and the users, that look like a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.rekognition import details, faces, images
from app.rekognition.call import Answer, Call, scale_of
from app.rekognition.faults import InvalidParameter
from faces.errors import Conflict, InvalidRequest, NotFound
from faces.records import ActiveModel, Match
from faces.search import SearchRequest
from faces.types import Analysis, Face


def similarity(model: str, cosine: float, threshold: float) -> float:
    """The Similarity of a cosine that reaches `threshold`; rounding takes it not below."""
    return max(threshold, round(scale_of(model).percent(cosine), 4))


def by_face(call: Call) -> Answer:
    """The faces that look like a stored one, which is not among them."""
    active = _ready(call)
    face_id = call.given["FaceId"]
    found = _of_face(call, _faces_request(call, active), face_id, active)
    return {
        "SearchedFaceId": face_id,
        "FaceMatches": _face_matches(call, found, active),
        "FaceModelVersion": details.model_version(active.key),
    }


def by_image(call: Call) -> Answer:
    """The faces that look like the largest one of a picture that passes the filter."""
    active = _ready(call)
    analysis, query = _largest(call, active)
    if query is None:
        raise images.no_face("Image")
    found = _of_picture(call, _faces_request(call, active), query, active)
    box = details.bounding_box(
        query.detection.box, (analysis.picture.width, analysis.picture.height)
    )
    return {
        "SearchedFaceBoundingBox": box,
        "SearchedFaceConfidence": details.percent(query.detection.confidence),
        "FaceMatches": _face_matches(call, found, active),
        "FaceModelVersion": details.model_version(active.key),
    }


def users(call: Call) -> Answer:
    """The users whose faces look like a stored face, or like another user's."""
    active = _ready(call)
    request = _users_request(call, active)
    answer: Answer = {"FaceModelVersion": details.model_version(active.key)}
    if "FaceId" in call.given:
        answer["SearchedFace"] = {"FaceId": call.given["FaceId"]}
        found = _of_face(call, request, call.given["FaceId"], active)
    else:
        user = call.given["UserId"]
        answer["SearchedUser"] = {"UserId": user}
        try:
            found = call.parts.finder.by_subject(request, user, active).faces[0]
        except InvalidRequest:  # a user without faces looks like nobody
            found = ()
    answer["UserMatches"] = _user_matches(call, found, active)
    return answer


def users_by_image(call: Call) -> Answer:
    """The users who look like the largest face of a picture; none for one without a face."""
    active = _ready(call)
    analysis, query = _largest(call, active)
    answer: Answer = {
        "UserMatches": [],
        "UnsearchedFaces": _unsearched(call, analysis, query),
        "FaceModelVersion": details.model_version(active.key),
    }
    if query is not None:
        found = _of_picture(call, _users_request(call, active), query, active)
        answer["UserMatches"] = _user_matches(call, found, active)
        answer["SearchedFace"] = {"FaceDetail": details.found_face(query, analysis.picture)}
    return answer


def _ready(call: Call) -> ActiveModel:
    """The active model, once collection and index are there."""
    active = call.model
    call.parts.store.collection(call.collection)
    call.parts.ensure_queryable(active)
    return active


def _faces_request(call: Call, active: ActiveModel) -> SearchRequest:
    threshold = call.given["FaceMatchThreshold"]
    return SearchRequest(
        collection=call.collection,
        limit=call.given["MaxFaces"],
        min_similarity=scale_of(active.key).cosine(threshold),
    )


def _users_request(call: Call, active: ActiveModel) -> SearchRequest:
    threshold = call.given["UserMatchThreshold"]
    return SearchRequest(
        collection=call.collection,
        limit=call.given["MaxUsers"],
        min_similarity=scale_of(active.key).cosine(threshold),
        group_by="subject",
        assigned="some",
        # The searched face may be its user's only one.
        include_own="FaceId" in call.given,
    )


def _largest(call: Call, active: ActiveModel) -> tuple[Analysis, Face | None]:
    """The picture's faces and the one to search by, which is the largest or none."""
    least = images.bar(call)

    def choose(found: Sequence[Face]) -> list[int]:
        return [i for i, face in enumerate(found) if face.quality >= least][:1]

    analysis = images.analyse(call, images.picture(call), choose=choose, model=active.key)
    return analysis, next((f for f in analysis.faces if f.embedding is not None), None)


def _of_picture(
    call: Call, request: SearchRequest, query: Face, active: ActiveModel
) -> Sequence[Match]:
    if query.embedding is None:
        return ()
    return call.parts.finder.vectors(request, [query.embedding], active).faces[0]


def _of_face(
    call: Call, request: SearchRequest, face_id: str, active: ActiveModel
) -> Sequence[Match]:
    try:
        return call.parts.finder.by_face(request, face_id, active).faces[0]
    except NotFound:
        raise InvalidParameter("FaceId: there is no such face in the collection.") from None
    except Conflict as error:
        raise InvalidParameter(f"FaceId: {error.detail}") from error


def _face_matches(call: Call, found: Sequence[Match], active: ActiveModel) -> list[dict[str, Any]]:
    threshold = call.given["FaceMatchThreshold"]
    stored = call.parts.store.faces_by_id(call.collection, [match.face_id for match in found])
    here = [match for match in found if match.face_id in stored]
    shown = faces.shown(call, [stored[match.face_id] for match in here])
    return [
        {"Similarity": similarity(active.key, match.similarity, threshold), "Face": face}
        for match, face in zip(here, shown, strict=True)
    ]


def _user_matches(call: Call, found: Sequence[Match], active: ActiveModel) -> list[dict[str, Any]]:
    threshold = call.given["UserMatchThreshold"]
    return [
        {
            "Similarity": similarity(active.key, match.similarity, threshold),
            "User": {"UserId": match.subject_id, "UserStatus": "ACTIVE"},
        }
        for match in found
        if match.subject_id is not None
    ]


def _unsearched(call: Call, analysis: Analysis, query: Face | None) -> list[dict[str, Any]]:
    least = images.bar(call)
    return [
        {
            "FaceDetails": details.found_face(face, analysis.picture),
            "Reasons": ["FACE_NOT_LARGEST"]
            if face.quality >= least
            else details.reasons(face.reasons),
        }
        for face in analysis.faces
        if face is not query
    ]
