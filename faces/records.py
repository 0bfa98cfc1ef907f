"""What the store hands out: frozen copies of stored objects, never a live document.

Boxes are pixels of the upright picture unless a name says relative.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from faces.types import Box, Landmarks

Scalar: TypeAlias = str | float | bool
Metadata: TypeAlias = dict[str, Scalar]
FieldType: TypeAlias = Literal["string", "number", "bool"]
MediaState: TypeAlias = Literal["done", "no_face", "failed", "gone"]
JobState: TypeAlias = Literal["queued", "running", "stalled", "succeeded", "failed", "cancelled"]
Quantization: TypeAlias = Literal["none", "scalar", "binary"]
T = TypeVar("T")

API_SOURCE = "api"
DEFAULT_COLLECTION = "default"


@dataclass(frozen=True, slots=True)
class StoredFace:
    """One indexed face. Its vectors stay in the database; `models` names those that it has."""

    face_id: str
    collection: str
    media_id: str
    image_id: str
    source: str
    box: Box
    landmarks: Landmarks
    confidence: float
    quality: float
    subject_id: str | None
    metadata: Metadata
    taken_at: dt.datetime | None
    created_at: dt.datetime
    hidden: bool
    models: tuple[str, ...]
    frame: tuple[int, int]
    """The upright size, in pixels, of the picture that the box was found in."""


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A detected face that is not searchable, and why: `erased`, `deleted`, `low_sharpness`, ..."""

    box: Box
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One picture as last indexed. `faces` is filled by `Store.item`, empty in lists."""

    collection: str
    media_id: str
    source: str
    source_key: str
    state: MediaState
    image_id: str | None
    sha256: str | None
    width: int
    height: int
    url: str | None
    title: str | None
    taken_at: dt.datetime | None
    metadata: Metadata
    hidden: bool
    etag: str | None
    error: str | None
    error_permanent: bool
    attempts: int
    next_at: dt.datetime | None
    pipeline_version: str
    rev: int
    face_count: int
    created_at: dt.datetime
    updated_at: dt.datetime
    faces: tuple[StoredFace, ...] = ()
    unindexed: tuple[Unindexed, ...] = ()


@dataclass(frozen=True, slots=True)
class PutResult:
    """What indexing one picture did. `created` is true when the item was not there before."""

    item: Item
    faces: tuple[StoredFace, ...]
    created: bool
    unchanged: bool
    unindexed: tuple[Unindexed, ...]


@dataclass(frozen=True, slots=True)
class KnownItem:
    """What a reconciler needs to know of an item that its source owns."""

    source_key: str
    media_id: str
    etag: str | None
    sha256: str | None
    state: MediaState
    pipeline_version: str
    attempts: int
    next_at: dt.datetime | None
    error: str | None
    """The class of the failure, None when there is none."""
    error_permanent: bool
    hidden: bool
    updated_at: dt.datetime
    rev: int
    url: str | None
    collection: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection with its declared metadata fields. Counts are filled where asked for.

    `pending_fields` are declared but cannot be filtered by until the job `facets_job` is done.
    """

    name: str
    metadata_fields: dict[str, FieldType]
    created_at: dt.datetime
    facets_job: str | None = None
    pending_fields: tuple[str, ...] = ()
    media: int | None = None
    faces: int | None = None
    subjects: int | None = None
    left_behind: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A person of one collection."""

    collection: str
    subject_id: str
    name: str | None
    metadata: Metadata
    rev: int
    created_at: dt.datetime
    updated_at: dt.datetime
    face_count: int | None = None


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The model whose vectors are searched, the encoder build that made them, and its index.

    `next` is the model that a switch goes to, `previous` the one to roll back to; while `preparing`
    processes load `next`, while `both` each picture that is indexed gets its vectors, too;
    `left_behind` the number of faces that had no vector of this model at the flip; `rolled_back`
    says that it became active by going back to it.
    """

    key: str
    build: str
    index: str
    quantization: Quantization = "none"
    rolled_back: bool = False
    next: ActiveModel | None = None
    previous: ActiveModel | None = None
    preparing: bool = False
    both: bool = False
    left_behind: int = 0
    since: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of background work and how far it is.

    `state` is `stalled` when a running job's heartbeat stopped; a worker then takes it over.
    `params` lack the keys and faces that it is about.
    """

    job_id: str
    kind: str
    state: JobState
    collection: str | None
    params: dict[str, Any]
    done: int
    total: int | None
    faces: int
    skipped: int
    failed: int
    attempts: int
    created_at: dt.datetime
    started_at: dt.datetime | None
    heartbeat_at: dt.datetime | None
    finished_at: dt.datetime | None
    eta_s: float | None
    last_error: str | None
    waiting_for: str | None
    cancelling: bool
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class JobFailure:
    """One thing that a job could not do. `key` is the item's id; `error` a class name and text."""

    key: str
    error: str
    detail: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next_cursor` is None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class MediaSummary:
    """What a match says about its picture."""

    url: str | None = None
    title: str | None = None
    taken_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """One search result. `similarity` is the cosine, `score` Atlas's (1 + cosine) / 2."""

    face_id: str
    media_id: str
    image_id: str
    collection: str
    subject_id: str | None
    subject: str | None
    similarity: float
    score: float
    box: Box
    media: MediaSummary = field(default_factory=MediaSummary)
    metadata: Metadata = field(default_factory=dict)
