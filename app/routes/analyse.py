"""Looking at photos without storing anything: detect, embed, compare."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app import photos
from app.bodies import Incoming, Shape
from app.deps import Client, ClientDep, FaceRoute, SearchCaller, ServicesDep, body
from app.forms import CompareForm, DetectForm, EmbedForm, EmbedManyForm, KnownFace, Photo
from app.schemas import (
    Compared,
    ComparedFace,
    Detected,
    Embedded,
    EmbeddedFace,
    EmbeddedItem,
    EmbeddedMany,
    Face,
    PictureError,
)
from app.services import Services
from app.wire import Box, ImageSize, answer
from faces.errors import (
    Busy,
    DeadlineExceeded,
    ImageError,
    InvalidImage,
    InvalidRequest,
    ModelMismatch,
    NoFace,
)
from faces.loading import largest
from faces.models import cards
from faces.search import reaches
from faces.types import Analysis, Detection
from faces.types import Box as CoreBox

router = APIRouter(tags=["photos"])
DETECT = Shape(DetectForm, pictures=("image",))
EMBED = Shape(EmbedForm, pictures=("image",), json_fields=("faces",))
EMBED_MANY = Shape(
    EmbedManyForm, pictures=tuple(f"image_{number}" for number in range(1, 9)), together=True
)
SPARE_SECONDS = 10.0
"""A photo of several is not begun when less than this is left of the request's time."""
COMPARE = Shape(CompareForm, pictures=("source", "target"), nested=True)


@router.post("/v1/detect", response_model=Detected)
def detect(
    parts: ServicesDep,
    caller: SearchCaller,
    ready: FaceRoute,
    incoming: Annotated[Incoming[DetectForm], Depends(body(DETECT))],
    client: ClientDep,
) -> Response:
    """The faces of a photo, largest first; an empty list when there is none."""
    form = incoming.form
    data = photos.picture(
        parts, client, incoming.pictures.get("image"), form.image_url, form.image_base64
    )
    found = photos.analyse(parts, client, data, "detect", choose=photos.none)
    return answer(
        Detected(
            image=ImageSize(width=found.picture.width, height=found.picture.height),
            faces=[Face.of(face) for face in found.faces],
            timings_ms=found.timings_ms,
        )
    )


@router.post("/v1/embed", response_model=Embedded)
def embed(
    parts: ServicesDep,
    caller: SearchCaller,
    ready: FaceRoute,
    incoming: Annotated[Incoming[EmbedForm], Depends(body(EMBED))],
    client: ClientDep,
) -> Response:
    """The faces of a photo with their vectors: what another instance's remote encoder calls.

    `faces` names faces that the caller has found already, with landmarks; then nothing is detected
    and the answer keeps their order. `model` makes sure that the vectors are of that model.
    """
    form = incoming.form
    _check_model(parts, form.model)
    data = photos.picture(
        parts, client, incoming.pictures.get("image"), form.image_url, form.image_base64
    )
    known = None if form.faces is None else [_detection(face) for face in form.faces]
    found = photos.analyse(parts, client, data, "embed", known=known)
    return answer(_embedded(found))


@router.post("/v1/embed/batch", response_model=EmbeddedMany)
def embed_batch(
    parts: ServicesDep,
    caller: SearchCaller,
    ready: FaceRoute,
    incoming: Annotated[Incoming[EmbedManyForm], Depends(body(EMBED_MANY))],
    client: ClientDep,
) -> Response:
    """The faces of up to eight photos with their vectors: what a remote indexer calls.

    The photos are the parts `image_1` to `image_8` of a form and hold together no more bytes than
    one photo may. One that is of no use has an `error` of its own; one for which the time of the
    request does not suffice has the error `busy`: send it again.
    """
    _check_model(parts, incoming.form.model)
    if not incoming.pictures:
        raise InvalidRequest.field("body", "needs at least one of image_1 to image_8")
    hurried = replace(client, deadline=client.deadline - SPARE_SECONDS)
    items = [
        item(parts, hurried, name, incoming.pictures[name])
        for name in EMBED_MANY.pictures
        if name in incoming.pictures
    ]
    return answer(EmbeddedMany(items=items))


def item(parts: Services, client: Client, name: str, data: bytes) -> EmbeddedItem:
    """What came of one picture of several; past the client's deadline it is not begun."""
    try:
        if time.monotonic() > client.deadline:
            raise DeadlineExceeded
        found = photos.analyse(parts, client, data, "embed")
    except (DeadlineExceeded, Busy):
        late = Busy("There was no time left for this picture: send it again.")
        return _refused(name, PictureError(code=late.code, detail=late.detail))
    except ImageError as error:
        reason = error.reason if isinstance(error, InvalidImage) else None
        return _refused(name, PictureError(code=error.code, detail=error.detail, reason=reason))
    return EmbeddedItem(image=name, embedded=_embedded(found), error=None)


def _refused(name: str, error: PictureError) -> EmbeddedItem:
    return EmbeddedItem(image=name, embedded=None, error=error)


def _check_model(parts: Services, model: str | None) -> None:
    if model is not None and model not in cards.CARDS:
        raise InvalidRequest.field("model", f"must be one of {', '.join(cards.CARDS)}")
    if model is not None and model != parts.engine.model:
        raise ModelMismatch(
            f"This service makes vectors of {parts.engine.model}. Start one with "
            f"FACE_MODEL={model}, or ask for {parts.engine.model}."
        )


def _embedded(found: Analysis) -> Embedded:
    return Embedded(
        model=found.model,
        build=found.build,
        dimensions=cards.card(found.model).dimensions,
        image=ImageSize(width=found.picture.width, height=found.picture.height),
        faces=[
            EmbeddedFace(
                **Face.of(face).model_dump(),
                embedding=[] if face.embedding is None else face.embedding.tolist(),
            )
            for face in found.faces
        ],
        timings_ms=found.timings_ms,
    )


@router.post("/v1/compare", response_model=Compared)
def compare(
    parts: ServicesDep,
    caller: SearchCaller,
    ready: FaceRoute,
    incoming: Annotated[Incoming[CompareForm], Depends(body(COMPARE))],
    client: ClientDep,
) -> Response:
    """The largest face of `source` against every face of `target`."""
    form = incoming.form
    source_data, target_data = (
        _side(parts, client, incoming, name, getattr(form, name)) for name in ("source", "target")
    )
    source = photos.analyse(parts, client, source_data, "compare", choose=largest)
    if not source.faces:
        raise NoFace("No face was found in the source photo.")
    target = photos.analyse(parts, client, target_data, "compare")
    threshold = form.min_similarity
    if threshold is None:
        threshold = cards.card(source.model).threshold
    query = source.faces[0].embedding
    compared = []
    for face in target.faces:
        if query is None or face.embedding is None or source.model != target.model:
            continue
        cosine = max(-1.0, min(1.0, float(query @ face.embedding)))
        compared.append(
            ComparedFace(
                box=Box.of(face.detection.box),
                similarity=cosine,
                confidence=face.detection.confidence,
                quality=face.quality,
            )
        )
    compared.sort(key=lambda face: -face.similarity)
    timings = {
        name: round(source.timings_ms[name] + target.timings_ms.get(name, 0.0), 3)
        for name in source.timings_ms
    }
    return answer(
        Compared(
            model=source.model,
            threshold=threshold,
            source_face=Face.of(source.faces[0]),
            matches=[face for face in compared if reaches(face.similarity, threshold)],
            unmatched=[face for face in compared if not reaches(face.similarity, threshold)],
            timings_ms=timings,
        )
    )


def _side(
    parts: ServicesDep,
    client: ClientDep,
    incoming: Incoming[CompareForm],
    name: str,
    photo: Photo | None,
) -> bytes:
    return photos.picture(
        parts,
        client,
        incoming.pictures.get(name),
        photo.image_url if photo else None,
        photo.image_base64 if photo else None,
        field=name,
    )


def _detection(face: KnownFace) -> Detection:
    box = face.box
    points = [(x, y) for x, y in face.landmarks]
    return Detection(
        CoreBox(box.x, box.y, box.width, box.height),
        face.confidence,
        (points[0], points[1], points[2], points[3], points[4]),
    )
