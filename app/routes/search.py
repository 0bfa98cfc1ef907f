"""Who else looks like this: search by photo, face, subject or vector."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app import photos, vectors
from app.bodies import Incoming, Shape, exactly_one
from app.deps import Client, ClientDep, FaceRoute, SearchCaller, ServicesDep, body
from app.forms import SearchForm
from app.schemas import Found, Match, SearchedFace, Unsearched
from app.services import Services
from app.wire import Box as WireBox
from app.wire import ImageSize, answer
from faces import documents, filters
from faces.errors import InvalidRequest, NoFace
from faces.models import cards
from faces.records import ActiveModel
from faces.search import Found as CoreFound
from faces.search import SearchRequest
from faces.types import Analysis, Face

router = APIRouter(tags=["search"])
MOST_FACES = 100
"""The most faces of one photo that one request searches; the rest is reported as unsearched."""
MOST_TEXT = 16 * 1024 * 1024
"""The most bytes of addresses, titles and metadata in one answer."""
FORMS = ("image", "image_url", "image_base64", "face_id", "subject_id", "vector")
SHAPE = Shape(SearchForm, pictures=("image",), json_fields=("filter", "vector"))


@router.post("/v1/search", response_model=Found)
def search(
    parts: ServicesDep,
    caller: SearchCaller,
    ready: FaceRoute,
    incoming: Annotated[Incoming[SearchForm], Depends(body(SHAPE))],
    client: ClientDep,
) -> Response:
    """The faces of a collection that look like the query, best first.

    Exactly one of `image`, `image_url`, `image_base64`, `face_id`, `subject_id` and `vector` is the
    query. Of a photo the largest face is searched unless `face` says otherwise; every other face
    is listed as `unsearched` with the reason.
    """
    form = incoming.form
    kind = exactly_one(_given(incoming), FORMS)
    caller.enter(form.collection)
    if kind in ("image", "image_url", "image_base64"):
        data = photos.picture(
            parts, client, incoming.pictures.get("image"), form.image_url, form.image_base64
        )
        return answer(run(parts, client, form, data))
    active = parts.active_model()
    request = _request(parts, form, active)
    if kind == "face_id":
        return _by_stored(lambda: parts.finder.by_face(request, form.face_id or "", active))
    if kind == "subject_id":
        return _by_stored(lambda: parts.finder.by_subject(request, form.subject_id or "", active))
    vector = vectors.unit(form.vector or (), cards.card(active.key).dimensions)
    return _by_stored(lambda: parts.finder.vectors(request, [vector], active))


def run(parts: Services, client: Client, form: SearchForm, data: bytes) -> Found:
    """The answer for a photo. What needs no photo is checked before it is looked at."""
    active = parts.active_model()
    request = _request(parts, form, active)
    parts.store.collection(form.collection)  # before the work: the search itself looks again
    chosen: list[int] = []

    def choose(faces: Sequence[Face]) -> list[int]:
        chosen[:] = _chosen(faces, form.face, parts.settings.face_min_quality)
        return chosen

    analysis = photos.analyse(parts, client, data, "search", choose=choose, model=active.key)
    if not analysis.faces:
        raise NoFace("No face was found in the photo, so there is nothing to search by.")
    began = time.perf_counter()
    queries = [e for i in chosen if (e := analysis.faces[i].embedding) is not None]
    found = _bounded(parts.finder.vectors(request, queries, active))
    ms = (time.perf_counter() - began) * 1000
    parts.metrics.stages({"search": ms})
    return _found(analysis, chosen, found, form, ms)


def _given(incoming: Incoming[SearchForm]) -> list[str]:
    form = incoming.form
    given = [name for name in FORMS[1:] if getattr(form, name) is not None]
    if "image" in incoming.pictures and form.image_base64 is None:
        given.append("image")
    return given


def _request(parts: Services, form: SearchForm, active: ActiveModel) -> SearchRequest:
    """The core's request. Raises NotFound, IndexNotReady and what the filter calls for."""
    tree = None
    if form.filter is not None:
        info = parts.store.collection(form.collection)
        tree = filters.parse(form.filter, info.metadata_fields, info.pending_fields)
    parts.ensure_queryable(active)
    threshold = form.min_similarity
    return SearchRequest(
        collection=form.collection,
        limit=form.limit,
        min_similarity=cards.card(active.key).threshold if threshold is None else threshold,
        group_by=form.group_by,
        filter=tree,
        assigned=form.assigned,
        exclusive=form.exclusive,
        include_own=form.include_own,
        exact=form.exact,
    )


def _by_stored(find: Callable[[], CoreFound]) -> Response:
    began = time.perf_counter()
    found = _bounded(find())
    ms = (time.perf_counter() - began) * 1000
    matches = (
        [Match.of(match, cards.card(found.model)) for match in found.faces[0]]
        if found.faces
        else []
    )
    return answer(
        Found(
            model=found.model,
            image=None,
            complete=found.complete,
            faces=[
                SearchedFace(box=None, confidence=None, quality=None, landmarks=[], matches=matches)
            ],
            unsearched=[],
            timings_ms={"search": round(ms, 3)},
        )
    )


def _bounded(found: CoreFound) -> CoreFound:
    """The same. Raises InvalidRequest when what it says of its matches is too long to be sent."""
    size = 0
    for match in (match for matches in found.faces for match in matches):
        size += documents.metadata_size(match.metadata)
        size += sum(len((text or "").encode()) for text in (match.media.url, match.media.title))
    if size > MOST_TEXT:
        raise InvalidRequest.field(
            "limit",
            "asks for so many matches that their metadata, titles and addresses have more than "
            f"{MOST_TEXT} bytes: ask for fewer, or for one face of the photo at a time",
        )
    return found


def _chosen(faces: Sequence[Face], wish: str | int, min_quality: float) -> list[int]:
    if not faces:
        return []
    if wish == "largest":
        return [0]
    if wish == "all":
        fit = [i for i, face in enumerate(faces) if face.quality >= min_quality]
        return fit[:MOST_FACES]
    index = int(wish)
    if index >= len(faces):
        raise InvalidRequest.field(
            "face", f"is beyond the faces of this photo, of which there are {len(faces)}"
        )
    return [index]


def _found(
    analysis: Analysis, chosen: list[int], found: CoreFound, form: SearchForm, ms: float
) -> Found:
    searched = []
    card = cards.card(found.model)
    for index, matches in zip(chosen, found.faces, strict=True):
        face = analysis.faces[index]
        searched.append(
            SearchedFace(
                box=WireBox.of(face.detection.box),
                confidence=face.detection.confidence,
                quality=face.quality,
                landmarks=list(face.detection.landmarks),
                matches=[Match.of(match, card) for match in matches],
            )
        )
    rest = set(range(len(analysis.faces))) - set(chosen)
    return Found(
        model=found.model,
        image=ImageSize(width=analysis.picture.width, height=analysis.picture.height),
        complete=found.complete,
        faces=searched,
        unsearched=[
            Unsearched(
                box=WireBox.of(analysis.faces[i].detection.box),
                reason=_reason(analysis.faces[i], form, len(chosen)),
            )
            for i in sorted(rest)
        ],
        timings_ms={**analysis.timings_ms, "search": round(ms, 3)},
    )


def _reason(face: Face, form: SearchForm, searched: int) -> str:
    if form.face == "largest":
        return "not_largest"
    if form.face == "all":
        if searched >= MOST_FACES:
            return "too_many_faces"
        return face.reasons[0] if face.reasons else "low_face_quality"
    return "not_chosen"
