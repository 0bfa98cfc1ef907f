"""Pictures without a collection: the faces of one, and the likeness of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app import photos
from app.rekognition import details, images
from app.rekognition.call import Answer, Call, scale_of
from app.rekognition.searches import similarity
from faces.errors import Loading
from faces.search import reaches
from faces.types import Face

MOST_TARGETS = 100


def detect(call: Call) -> Answer:
    """The faces of a picture, largest first, with what the service measures of them."""
    analysis = images.analyse(call, images.picture(call), choose=photos.none)
    shown = [details.found_face(face, analysis.picture) for face in analysis.faces]
    return {"FaceDetails": shown[:MOST_TARGETS]}


def compare(call: Call) -> Answer:
    """The largest face of the source against the hundred largest of the target."""
    least, threshold = images.bar(call), call.given["SimilarityThreshold"]

    def passing(found: Sequence[Face]) -> list[int]:
        return [i for i, face in enumerate(found) if face.quality >= least]

    source = images.analyse(
        call, images.picture(call, "SourceImage"), choose=lambda found: passing(found)[:1]
    )
    query = next((face for face in source.faces if face.embedding is not None), None)
    if query is None or query.embedding is None:
        raise images.no_face("SourceImage")
    target = images.analyse(
        call,
        images.picture(call, "TargetImage"),
        choose=lambda found: passing(found)[:MOST_TARGETS],
    )
    if target.model != source.model:
        raise Loading("The service is just switching to another model.")
    matches: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    curve = scale_of(source.model)
    for face in target.faces:
        if face.embedding is None:
            continue
        shown = details.found_face(face, target.picture)
        cosine = max(-1.0, min(1.0, float(query.embedding @ face.embedding)))
        if reaches(cosine, curve.cosine(threshold)):
            likeness = similarity(source.model, cosine, threshold)
            matches.append({"Similarity": likeness, "Face": shown})
        else:
            others.append(shown)
    if not matches and not others:
        raise images.no_face("TargetImage")
    matches.sort(key=lambda match: -match["Similarity"])
    frame = (source.picture.width, source.picture.height)
    return {
        "SourceImageFace": {
            "BoundingBox": details.bounding_box(query.detection.box, frame),
            "Confidence": details.percent(query.detection.confidence),
        },
        "FaceMatches": matches,
        "UnmatchedFaces": others,
    }
