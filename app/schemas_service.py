"""What the API answers about collections, people, jobs, models and its own health."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.wire import (
    Time,
    Wire,
)
from faces import records as r


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
