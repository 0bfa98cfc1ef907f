"""What indexing a picture changes in its stored faces: pure, values in and values out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faces import documents, identity
from faces.database import Document
from faces.models.cards import CARDS
from faces.records import FieldType, Unindexed
from faces.types import Analysis, Box, Face, MediaInfo, MediaRef

LOW_QUALITY = "low_quality"
ERASED = "erased"
DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class FacePlan:
    """The single-document writes that bring an item's faces up to date."""

    inserts: tuple[Document, ...] = ()
    updates: tuple[tuple[str, Document, Document], ...] = ()
    """(face id, leaf paths to set, leaf paths to unset); only what differs."""
    deletes: tuple[str, ...] = ()
    unindexed: tuple[Unindexed, ...] = ()
    order: tuple[str, ...] = field(default=())
    """The ids of the faces that stay, in the analysis's order."""
    positions: tuple[int, ...] = ()
    """Where in the analysis each of `order` was found."""


def plan_faces(
    ref: MediaRef,
    info: MediaInfo,
    analyses: Sequence[Analysis],
    stored: Sequence[Document],
    tombstones: Sequence[Document],
    declared: Mapping[str, FieldType],
    *,
    content: str,
    min_quality: float,
    now: dt.datetime,
    only_add: bool = False,
) -> FacePlan:
    """The plan for one item.

    `analyses[0]` decides which faces there are; further ones bring the vectors of other models for
    the same faces, in the same order. `stored` are the item's face documents without vectors; with
    `only_add` those that were not chosen this time stay.
    """
    main = analyses[0]
    picture = main.picture
    unindexed: list[Unindexed] = []
    kept: list[tuple[int, Face, Box]] = []
    stones = {
        kind: [Box(*stone["box"]) for stone in tombstones if stone["kind"] == kind]
        for kind in ("person", "face")
    }
    there = [documents.relative_box(document) for document in stored]
    for position, face in enumerate(main.faces):
        box = face.detection.box
        relative = box.relative(picture.width, picture.height)
        if identity.overlaps(relative, stones["person"]):
            unindexed.append(Unindexed(box, ERASED))
        elif identity.overlaps(relative, stones["face"]):
            unindexed.append(Unindexed(box, DELETED))
        elif only_add and face.embedding is None and identity.overlaps(relative, there):
            continue  # it is stored, and was not chosen this time
        elif face.embedding is None or face.quality < min_quality:
            unindexed.append(Unindexed(box, face.reasons[0] if face.reasons else LOW_QUALITY))
        else:
            kept.append((position, face, relative))

    matched = identity.match_boxes(there, [box for _, _, box in kept])
    taken = {document["_id"] for document in stored}
    # A face that was removed keeps its id: by it its tombstone stands for that face alone.
    taken |= {stone["_id"].partition("/")[2] for stone in tombstones}
    image = identity.image_id(ref.collection, ref.media_id, content)
    shared = item_fields(ref, info, declared)
    inserts: list[Document] = []
    updates: list[tuple[str, Document, Document]] = []
    order: list[str] = []
    for (position, face, relative), index in zip(kept, matched, strict=True):
        vectors: Document = {}
        builds: Document = {}
        for analysis in analyses:
            vector = analysis.faces[position].embedding
            if vector is not None:
                vectors[analysis.model] = documents.pack_vector(vector)
                builds[analysis.model] = analysis.build
        fields: Document = {
            **shared,
            "image_id": image,
            "box": documents.box_document(face.detection.box),
            "frame": [picture.width, picture.height],
            "landmarks": [[float(x), float(y)] for x, y in face.detection.landmarks],
            "confidence": float(face.detection.confidence),
            "quality": float(face.quality),
        }
        if index is None:
            minted = identity.face_id(ref.collection, ref.media_id, content, relative, taken)
            taken.add(minted)
            order.append(minted)
            inserts.append(
                {
                    "_id": minted,
                    "collection": ref.collection,
                    "media_id": ref.media_id,
                    **fields,
                    "subject_id": None,
                    "created_at": documents.millis(now),
                    "embeddings": vectors,
                    "builds": builds,
                }
            )
        else:
            old = stored[index]
            order.append(old["_id"])
            changed = _changes(old, fields)
            unset: Document = {}
            same_picture = old["image_id"] == image
            for model, vector in vectors.items():
                if not (same_picture and (old.get("builds") or {}).get(model) == builds[model]):
                    changed[f"embeddings.{model}"] = vector
                    changed[f"builds.{model}"] = builds[model]
            if not same_picture:
                # A vector of another model belongs to the picture that was there before, also one
                # that was embedded since `stored` was read.
                for model in (set(old.get("builds") or {}) | set(CARDS)) - set(vectors):
                    unset[f"embeddings.{model}"] = ""
                    unset[f"builds.{model}"] = ""
            if changed or unset:
                updates.append((old["_id"], changed, unset))
    rest = sorted({document["_id"] for document in stored} - set(order))
    if only_add:
        order += rest
    return FacePlan(
        tuple(inserts),
        tuple(updates),
        () if only_add else tuple(rest),
        tuple(unindexed),
        tuple(order),
        tuple(position for position, _, _ in kept),
    )


def item_fields(
    ref: MediaRef, info: MediaInfo, declared: Mapping[str, FieldType]
) -> dict[str, Any]:
    """The fields of a face that come from its item."""
    return {
        "source": ref.source,
        "metadata": dict(info.metadata),
        "facets": documents.facets(info.metadata, declared),
        "taken_at": documents.millis(info.taken_at),
        "hidden": info.hidden,
    }


def plan_info(
    ref: MediaRef, info: MediaInfo, stored: Sequence[Document], declared: Mapping[str, FieldType]
) -> FacePlan:
    """The plan when only what the source says about the item changed, not its pixels."""
    shared = item_fields(ref, info, declared)
    updates: tuple[tuple[str, Document, Document], ...] = tuple(
        (document["_id"], changed, {})
        for document in stored
        if (changed := _changes(document, shared))
    )
    return FacePlan(updates=updates, order=tuple(document["_id"] for document in stored))


def after(plan: FacePlan, stored: Sequence[Document]) -> list[Document]:
    """The item's faces once `plan` is carried out, in its order, without vectors."""
    faces = {document["_id"]: dict(document) for document in (*stored, *plan.inserts)}
    for face, changed, unset in plan.updates:
        builds = dict(faces[face].get("builds") or {})
        for path in (*changed, *unset):
            if path.startswith("builds."):
                builds.pop(path.removeprefix("builds."), None)
        for path, value in changed.items():
            if path.startswith("builds."):
                builds[path.removeprefix("builds.")] = value
            elif "." not in path:
                faces[face][path] = value
        faces[face]["builds"] = builds
    return [faces[face] for face in plan.order]


def _changes(old: Document, new: Document) -> Document:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}
