"""Who may write an item, and whether there is anything to write: pure checks of documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from faces import documents, identity
from faces.database import Document
from faces.errors import Conflict, LeaseLost
from faces.leases import Fence
from faces.records import API_SOURCE, MediaState
from faces.types import Analysis, MediaInfo, MediaRef


def info_fields(info: MediaInfo) -> Document:
    """The fields of an item's document that its source decides."""
    fields = dataclasses.asdict(info)
    fields["taken_at"] = documents.millis(info.taken_at)
    return fields


def stored_key(ref: MediaRef) -> str:
    """Unique per source over all collections; an API item's own key is not."""
    if ref.source == API_SOURCE:
        return identity.media_key(ref.collection, ref.media_id)
    return ref.source_key


def fence_fields(fence: Fence | None) -> Document:
    """What a write under a lease leaves on the item."""
    return {"fence": {"name": fence.name, "epoch": fence.epoch}} if fence else {}


def same_picture(old: Document | None, content: str, pipeline_version: str) -> bool:
    """Whether the stored item is this content, already indexed by this pipeline."""
    states: tuple[MediaState, ...] = ("done", "no_face")
    return (
        old is not None
        and old["state"] in states
        and old.get("sha256") == content
        and old.get("pipeline_version") == pipeline_version
    )


def covered(stored: Sequence[Document], analyses: Sequence[Analysis]) -> bool:
    """Whether every stored face has a vector of each analysis's model."""
    return all(
        analysis.model in (face.get("builds") or {}) for face in stored for analysis in analyses
    )


def check_began(old: Document | None, began_rev: int | None) -> None:
    """Raises Conflict when the item was deleted after a writer began at `began_rev`."""
    if began_rev is not None and old is not None and old.get("deleted_rev", 0) > began_rev:
        raise Conflict("The item was deleted while this picture was worked on.")


def check_owner(old: Document | None, ref: MediaRef) -> None:
    """Raises Conflict when another source, or another key of this source, owns the id."""
    if detail := taken(old, ref.source, stored_key(ref)):
        raise Conflict("Another source owns this id." if ref.source == API_SOURCE else detail)


def taken(old: Document | None, source: str, key: str) -> str | None:
    """Who has the id already, as a sentence; None when it is free or this item's own."""
    if old is None or old["state"] == "gone":
        return None
    if old["source"] != source:
        return owned_by(old["source"])
    if old.get("source_key") != key:
        return (
            "Another item of this source has this id: the two names differ only in how an accent is"
            " written (Unicode NFC and NFD). Rename one of them."
        )
    return None


def owned_by(source: str) -> str:
    """What to say of an id that another source owns."""
    if source == API_SOURCE:
        return (
            "This id was put through the API, and no source touches that: delete it there, or give"
            " the CMS's item another id."
        )
    return (
        f"The source {source} owns this id. If that is the same CMS under its former name, set"
        f" CMS_SOURCE_NAME={source}; else fill another collection (CMS_COLLECTION)."
    )


def check_epoch(old: Document | None, fence: Fence | None) -> None:
    """Raises LeaseLost when a later grant of the same lease has written the item."""
    before = (old or {}).get("fence")
    if fence is None or before is None or before["name"] != fence.name:
        return
    if before["epoch"] > fence.epoch:
        raise LeaseLost("A later run of the indexer has written this item.")


def changed_metadata(old: Document, info: MediaInfo) -> dict[str, object]:
    """The metadata that an item does not have yet; 1 and true are not the same."""
    before = old.get("metadata") or {}
    return {
        name: value
        for name, value in info.metadata.items()
        if name not in before or repr(before[name]) != repr(value)
    }
