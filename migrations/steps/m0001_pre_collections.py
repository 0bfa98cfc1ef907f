"""The collections, their ordinary indexes, and the collection `default`."""

from __future__ import annotations

from migrations.step import Command

_DAY_S = 24 * 3600
_INDEXES: dict[str, list[dict[str, object]]] = {
    "likeness_faces": [
        {"key": {"collection": 1, "media_id": 1, "_id": 1}, "name": "by_item"},
        {"key": {"collection": 1, "subject_id": 1, "_id": 1}, "name": "by_subject"},
    ],
    "likeness_media": [
        {"key": {"collection": 1, "media_id": 1}, "name": "by_item", "unique": True},
        {"key": {"collection": 1, "state": 1, "next_at": 1}, "name": "by_state"},
        {
            "key": {"source": 1, "source_key": 1},
            "name": "by_source_key",
            "unique": True,
            # An item that is gone has no key: it is free for another item.
            "partialFilterExpression": {"source_key": {"$type": "string"}},
        },
        {"key": {"collection": 1, "image_id": 1}, "name": "by_picture"},
        {"key": {"gone_at": 1}, "name": "gone", "expireAfterSeconds": 30 * _DAY_S},
    ],
    "likeness_collections": [],
    "likeness_subjects": [
        {"key": {"collection": 1, "subject_id": 1}, "name": "by_id", "unique": True},
        {"key": {"collection": 1, "name_folded": 1, "subject_id": 1}, "name": "by_name"},
        {"key": {"collection": 1, "state": 1}, "name": "by_state"},
    ],
    "likeness_jobs": [
        {"key": {"kind": 1, "state": 1, "_id": 1}, "name": "by_kind"},
        {"key": {"finished_at": 1}, "name": "old", "expireAfterSeconds": 90 * _DAY_S},
    ],
    "likeness_job_failures": [
        {"key": {"job_id": 1, "_id": 1}, "name": "by_job"},
        {"key": {"finished_at": 1}, "name": "old", "expireAfterSeconds": 90 * _DAY_S},
    ],
    "likeness_leases": [],
    "likeness_tombstones": [
        {"key": {"collection": 1, "media_id": 1}, "name": "by_item"},
        {"key": {"receipt_id": 1}, "name": "by_receipt"},
    ],
    "likeness_crops": [{"key": {"collection": 1, "media_id": 1}, "name": "by_item"}],
    "likeness_models": [],
}


def up() -> list[Command]:
    """Creates what is missing; a collection or index that is there stays as it is."""
    commands: list[Command] = []
    for name, indexes in _INDEXES.items():
        commands.append({"create": name})
        if indexes:
            commands.append({"createIndexes": name, "indexes": indexes})
    commands.append(
        {
            "update": "likeness_collections",
            "updates": [
                {
                    "q": {"_id": "default"},
                    "u": [
                        {
                            "$set": {
                                "metadata_fields": {"$ifNull": ["$metadata_fields", {}]},
                                "created_at": {"$ifNull": ["$created_at", "$$NOW"]},
                                "rev": {"$ifNull": ["$rev", 1]},
                            }
                        }
                    ],
                    "upsert": True,
                }
            ],
        }
    )
    return commands


def down() -> list[Command]:
    """Removes the ordinary indexes; collections and what they hold stay."""
    return [
        {"dropIndexes": name, "index": [index["name"] for index in indexes]}
        for name, indexes in _INDEXES.items()
        if indexes
    ]
