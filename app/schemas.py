"""What the API answers, as pydantic models; `from_…` builds each from the core's values."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from starlette.responses import Response

from faces import records as r
from faces import types as t
from faces.models.cards import ModelCard

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
T = TypeVar("T")


def _iso(moment: dt.datetime) -> str:
    """UTC with milliseconds, the precision that the database keeps."""
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[dt.datetime, PlainSerializer(_iso, return_type=str)]
Pixel = Annotated[float, PlainSerializer(lambda v: round(v, 2), return_type=float)]
Ratio = Annotated[float, PlainSerializer(lambda v: round(v, 6), return_type=float)]


class Wire(BaseModel):
    """The base of all answers."""

    model_config = ConfigDict(extra="forbid", json_schema_mode_override="serialization")


class Box(Wire):
    """A rectangle in pixels of the upright picture, origin at the top left."""

    x: Pixel
    y: Pixel
    width: Pixel
    height: Pixel

    @classmethod
    def of(cls, box: t.Box) -> Box:
        """From the core's box."""
        return cls(x=box.x, y=box.y, width=box.width, height=box.height)


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `instance` is the request id."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    reason: str | None = Field(None, description="Why a picture is unusable (`invalid_image`).")
    errors: list[FieldProblem] | None = None


class FieldProblem(BaseModel):
    """One field at fault."""

    field: str
    message: str


class ImageSize(Wire):
    """The upright size in pixels."""

    width: int
    height: int


class Face(Wire):
    """A detected face. Landmarks: right eye, left eye, nose, right and left mouth corner."""

    box: Box
    confidence: Ratio
    quality: Ratio
    landmarks: list[tuple[Pixel, Pixel]]
    reasons: list[str] = Field(description="Why the quality is low, worst first.")

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


class MediaSummary(Wire):
    """What a match says about its picture."""

    url: str | None
    title: str | None
    taken_at: Time | None


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


class Page(Wire, Generic[T]):
    """One page of a list; `next_cursor` is null at the end."""

    items: list[T]
    next_cursor: str | None


class Collection(Wire):
    """A collection. `pending_fields` are declared, but cannot be filtered by yet."""

    collection: str
    metadata_fields: dict[str, Literal["string", "number", "bool"]]
    pending_fields: list[str]
    job_id: str | None = Field(description="The job that rewrites its metadata facets.")
    created_at: Time

    @classmethod
    def fields(cls, info: r.CollectionInfo) -> dict[str, Any]:
        """The model's fields from the core's collection."""
        return {
            "collection": info.name,
            "metadata_fields": dict(info.metadata_fields),
            "pending_fields": list(info.pending_fields),
            "job_id": info.facets_job,
            "created_at": info.created_at,
        }

    @classmethod
    def of(cls, info: r.CollectionInfo) -> Collection:
        """From the core's collection."""
        return cls(**cls.fields(info))


class CollectionDetail(Collection):
    """A collection with what it holds."""

    media_count: int
    face_count: int
    subject_count: int
    left_behind: int = Field(
        description="Faces without a vector of the active model: a switch left them behind, and "
        "searches do not find them."
    )

    @classmethod
    def of(cls, info: r.CollectionInfo) -> CollectionDetail:
        """From the core's collection, counts included."""
        return cls(
            **cls.fields(info),
            media_count=info.media or 0,
            face_count=info.faces or 0,
            subject_count=info.subjects or 0,
            left_behind=info.left_behind,
        )


class Subject(Wire):
    """A person."""

    subject_id: str
    collection: str
    name: str | None
    metadata: dict[str, str | int | float | bool]
    face_count: int | None
    created_at: Time
    updated_at: Time

    @classmethod
    def of(cls, subject: r.Subject) -> Subject:
        """From the core's subject."""
        return cls(
            subject_id=subject.subject_id,
            collection=subject.collection,
            name=subject.name,
            metadata=dict(subject.metadata),
            face_count=subject.face_count,
            created_at=subject.created_at,
            updated_at=subject.updated_at,
        )


class SubjectDeleted(Wire):
    """A person was deleted; their faces have no subject now."""

    subject_id: str
    faces_unassigned: int


class Assigned(Wire):
    """How many faces were given to a person."""

    subject_id: str
    faces_assigned: int


class Unassigned(Wire):
    """How many faces were taken from a person."""

    subject_id: str
    faces_unassigned: int


class Rejected(Wire):
    """How many faces were noted as not a person's."""

    subject_id: str
    faces_rejected: int


class JobAccepted(Wire):
    """Work that goes on in the background; `Location` names it, too."""

    job_id: str


class Job(Wire):
    """A piece of background work. `waiting_for` is `worker` when none is alive to do it."""

    job_id: str
    kind: str
    state: Literal["queued", "running", "stalled", "succeeded", "failed", "cancelled"]
    collection: str | None
    done: int
    total: int | None
    faces: int
    skipped: int
    failed: int
    created_at: Time
    started_at: Time | None
    heartbeat_at: Time | None
    finished_at: Time | None
    eta_s: float | None
    last_error: str | None
    waiting_for: str | None
    result: dict[str, Any] | None

    @classmethod
    def of(cls, job: r.Job) -> Job:
        """From the core's job."""
        return cls(**{name: getattr(job, name) for name in cls.model_fields})


class JobFailure(Wire):
    """One thing that a job could not do."""

    key: str
    error: str
    detail: str
    at: Time


class ModelInfo(Wire):
    """A model and its card."""

    key: str
    name: str
    dimensions: int
    detector: str
    active: bool
    present: bool
    licence: str
    licence_declared_by: str
    training_data: str
    commercial_use: str
    source: str
    sha256: str | None
    size_bytes: int | None
    threshold: float
    threshold_source: str


class EncoderInfo(Wire):
    """Which encoder this process uses, and why."""

    kind: Literal["onnx", "remote", "deepface", "disabled"]
    reason: str
    state: str
    model: str | None
    build: str | None


class Models(Wire):
    """The models that this service knows."""

    items: list[ModelInfo]
    encoder: EncoderInfo


class Health(Wire):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Wire):
    """Whether every part is ready, and a sentence for each that is not."""

    status: Literal["ready", "disabled", "loading", "degraded"]
    checks: dict[str, str]
    reasons: dict[str, str]


Problem.model_rebuild()


def answer(model: BaseModel, status: int = 200, **headers: str) -> Response:
    """The model as a JSON response."""
    return Response(
        model.model_dump_json().encode(),
        status_code=status,
        media_type="application/json",
        headers=headers or None,
    )
