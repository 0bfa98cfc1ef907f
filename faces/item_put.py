"""One picture to be stored: the request, and what it changes. Pure; the stores carry it out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from faces import documents, identity, item_rules
from faces.database import Document
from faces.errors import OtherPicture, Tombstoned
from faces.item_before import Before, ItemBefore
from faces.item_plan import FacePlan, plan_faces, plan_info
from faces.leases import Fence
from faces.records import FieldType, Item
from faces.types import Analysis, MediaInfo, MediaRef

Again: TypeAlias = Callable[[Item], MediaInfo]
"""What is said of an item that holds the same picture already."""


@dataclass(frozen=True, slots=True)
class Put:
    """A picture that was looked at; see `Store.put_item` for the fields.

    `analyses[0]` decides which faces there are, further ones bring other models' vectors of them.
    """

    ref: MediaRef
    info: MediaInfo
    analyses: tuple[Analysis, ...]
    content: str
    began_rev: int | None = None
    before: Before | None = None
    keep_other: bool = False
    again: Again | None = None
    since: dt.datetime | None = None

    @property
    def size(self) -> int:
        """About how many documents it writes."""
        return 1 + len(self.analyses[0].faces)


@dataclass(frozen=True, slots=True)
class Rules:
    """What all pictures of a run have in common."""

    min_quality: float
    pipeline_version: str
    fence: Fence | None


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """What storing a picture changes: its faces, and the fields of its item.

    `live` says that the item was there, `same` that the picture was, too.
    """

    faces: FacePlan
    live: bool
    same: bool
    stored: Sequence[Document] = ()
    fields: Document = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether any face is written."""
        return bool(self.faces.inserts or self.faces.updates or self.faces.deletes)


def is_live(old: Document | None) -> bool:
    """Whether a stored item is there for readers."""
    return old is not None and old["state"] != "gone"


def check_put(put: Put, old: Document | None, fence: Fence | None) -> None:
    """Raises Conflict, LeaseLost or OtherPicture when `put` may not replace what is stored."""
    item_rules.check_began(old, put.began_rev)
    item_rules.check_owner(old, put.ref)
    item_rules.check_epoch(old, fence)
    other = old is not None and old.get("sha256") not in (None, put.content)
    if put.keep_other and is_live(old) and other:
        raise OtherPicture


def plan_put(
    put: Put,
    before: ItemBefore,
    declared: Mapping[str, FieldType],
    rules: Rules,
    *,
    now: dt.datetime,
) -> ItemPlan:
    """The plan for one picture, given all that is stored of its item.

    Raises Tombstoned when a source brings back what the API deleted.
    """
    old, live = before.media, is_live(before.media)
    if not live and any(stone["kind"] == "item" for stone in before.stones):
        raise Tombstoned
    stored = before.faces if live else ()
    same = (
        live
        and item_rules.same_picture(old, put.content, rules.pipeline_version)
        and item_rules.covered(stored, put.analyses)
    )
    if same and old is not None:
        plan = plan_info(put.ref, put.info, stored, declared)
        unindexed = old.get("unindexed") or []
    else:
        plan = plan_faces(
            put.ref,
            put.info,
            put.analyses,
            stored,
            before.stones,
            declared,
            content=put.content,
            min_quality=rules.min_quality,
            now=now,
            only_add=put.keep_other and old is not None and old.get("sha256") == put.content,
        )
        unindexed = [
            {"box": documents.box_document(entry.box), "reason": entry.reason}
            for entry in plan.unindexed
        ]
    picture = put.analyses[0].picture
    fields: Document = {
        **item_rules.info_fields(put.info),
        "source": put.ref.source,
        "source_key": item_rules.stored_key(put.ref),
        "state": "done" if plan.order else "no_face",
        "sha256": put.content,
        "image_id": identity.image_id(put.ref.collection, put.ref.media_id, put.content),
        "width": picture.width,
        "height": picture.height,
        "pipeline_version": rules.pipeline_version,
        "unindexed": unindexed,
        "face_count": len(plan.order),
        "attempts": 0,
    }
    return ItemPlan(plan, live, same, stored, fields)
