"""What the API answers about photos, faces and pictures, built from the core's values."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.wire import (
    Box,
    ImageSize,
    MediaSummary,
    Pixel,
    Ratio,
    Time,
    Wire,
)
from faces import records as r
from faces import types as t
from faces.models.cards import ModelCard


class Face(Wire):
    """A detected face. Landmarks: right eye, left eye, nose, right and left mouth corner."""

    box: Box
    confidence: Ratio
    quality: Ratio
    landmarks: list[tuple[Pixel, Pixel]]
    reasons: list[str] = Field(description="Why the quality is low, worst first.")
    brightness: Ratio | None = Field(None, description="Mean luma of the face, 1 is white.")
    sharpness: Ratio | None = Field(None, description="0 is out of focus, 1 is as sharp as needed.")

    @classmethod
    def of(cls, face: t.Face) -> Face:
        """From the core's face."""
        d = face.detection
        return cls(
            box=Box.of(d.box),
            confidence=d.confidence,
            quality=face.quality,
            landmarks=list(d.landmarks),
            reasons=list(face.reasons),
            brightness=face.brightness,
            sharpness=face.sharpness,
        )


class EmbeddedFace(Face):
    """A face with its unit vector."""

    embedding: list[float]


class Detected(Wire):
    """All faces of a picture, largest first."""

    image: ImageSize
    faces: list[Face]
    timings_ms: dict[str, float]


class Embedded(Wire):
    """All faces of a picture with their vectors."""

    model: str
    build: str
    dimensions: int
    image: ImageSize
    faces: list[EmbeddedFace]
    timings_ms: dict[str, float]


class PictureError(Wire):
    """Why one picture of several has no faces: as a problem would say it."""

    code: str
    detail: str
    reason: str | None = Field(None, description="What is wrong with an `invalid_image`.")


class EmbeddedItem(Wire):
    """One picture of several: its faces, or why there are none."""

    image: str = Field(description="The name of the part that held it.")
    embedded: Embedded | None
    error: PictureError | None


class EmbeddedMany(Wire):
    """What came of several pictures, in the order of their names."""

    items: list[EmbeddedItem]


class Match(Wire):
    """A face of the gallery. `similarity` is the cosine, `score` is (1 + cosine) / 2."""

    face_id: str
    media_id: str
    image_id: str
    collection: str
    subject_id: str | None
    subject: str | None
    similarity: Ratio
    score: Ratio
    false_match_rate: float | None = Field(
        description="Share of pairs of different people at or above this similarity, as measured "
        "for the model; null where it was not."
    )
    box: Box
    media: MediaSummary
    metadata: dict[str, str | int | float | bool]

    @classmethod
    def of(cls, match: r.Match, card: ModelCard) -> Match:
        """From the core's match, found with the model of `card`."""
        rate = card.false_match_rate(match.similarity)
        return cls(
            face_id=match.face_id,
            media_id=match.media_id,
            image_id=match.image_id,
            collection=match.collection,
            subject_id=match.subject_id,
            subject=match.subject,
            similarity=match.similarity,
            score=match.score,
            false_match_rate=rate,
            box=Box.of(match.box),
            media=MediaSummary(
                url=match.media.url, title=match.media.title, taken_at=match.media.taken_at
            ),
            metadata=dict(match.metadata),
        )


class SearchedFace(Wire):
    """One face that was searched. A search by id or vector has no box of its own."""

    box: Box | None
    confidence: Ratio | None
    quality: Ratio | None
    landmarks: list[tuple[Pixel, Pixel]]
    matches: list[Match]


class Unsearched(Wire):
    """A face that was found but not searched, and why."""

    box: Box
    reason: str


class Found(Wire):
    """The answer to a search."""

    model: str
    image: ImageSize | None
    complete: bool
    faces: list[SearchedFace]
    unsearched: list[Unsearched]
    timings_ms: dict[str, float]


class ComparedFace(Wire):
    """A face of the target picture with its similarity to the source's."""

    box: Box
    similarity: Ratio
    confidence: Ratio
    quality: Ratio


class Compared(Wire):
    """The answer to a comparison; `unmatched` are the target's faces below the threshold."""

    model: str
    threshold: Ratio
    source_face: Face
    matches: list[ComparedFace]
    unmatched: list[ComparedFace]
    timings_ms: dict[str, float]


class StoredFace(Wire):
    """An indexed face."""

    face_id: str
    media_id: str
    image_id: str
    collection: str
    subject_id: str | None
    box: Box
    landmarks: list[tuple[Pixel, Pixel]]
    confidence: Ratio
    quality: Ratio
    metadata: dict[str, str | int | float | bool]
    taken_at: Time | None
    created_at: Time
    models: list[str]

    @classmethod
    def of(cls, face: r.StoredFace) -> StoredFace:
        """From the core's stored face."""
        return cls(
            face_id=face.face_id,
            media_id=face.media_id,
            image_id=face.image_id,
            collection=face.collection,
            subject_id=face.subject_id,
            box=Box.of(face.box),
            landmarks=list(face.landmarks),
            confidence=face.confidence,
            quality=face.quality,
            metadata=dict(face.metadata),
            taken_at=face.taken_at,
            created_at=face.created_at,
            models=list(face.models),
        )


class IndexedFace(Wire):
    """A face as indexing a picture reports it."""

    face_id: str
    box: Box
    confidence: Ratio
    quality: Ratio


class Unindexed(Wire):
    """A face that was found but is not searchable, and why: `erased`, `low_quality`, ..."""

    box: Box
    reason: str


class Indexed(Wire):
    """What indexing a picture did. `searchable` is false while the vector index catches up."""

    media_id: str
    image_id: str
    collection: str
    model: str
    unchanged: bool
    searchable: bool
    faces: list[IndexedFace]
    unindexed: list[Unindexed]
    image: ImageSize
    timings_ms: dict[str, float]


class MediaItem(Wire):
    """A picture as last indexed."""

    media_id: str
    image_id: str | None
    collection: str
    source: str
    state: str
    image: ImageSize
    url: str | None
    title: str | None
    taken_at: Time | None
    metadata: dict[str, str | int | float | bool]
    hidden: bool
    face_count: int
    error: str | None
    created_at: Time
    updated_at: Time

    @classmethod
    def fields(cls, item: r.Item) -> dict[str, Any]:
        """The model's fields from the core's item."""
        return {
            "media_id": item.media_id,
            "image_id": item.image_id,
            "collection": item.collection,
            "source": item.source,
            "state": item.state,
            "image": ImageSize(width=item.width, height=item.height),
            "url": item.url,
            "title": item.title,
            "taken_at": item.taken_at,
            "metadata": dict(item.metadata),
            "hidden": item.hidden,
            "face_count": item.face_count,
            "error": item.error,
            "created_at": item.created_at,
            "updated_at": item.updated_at,
        }


class MediaDetail(MediaItem):
    """A picture with its faces."""

    faces: list[StoredFace]
    unindexed: list[Unindexed]


class MediaDeleted(Wire):
    """What deleting a picture removed."""

    media_id: str
    faces_deleted: int


class FaceDeleted(Wire):
    """What deleting a face removed."""

    face_id: str
    media_id: str
    faces_deleted: Literal[1] = 1
