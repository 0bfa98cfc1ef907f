"""Examples for the OpenAPI document: request bodies by operation, and answers."""

from __future__ import annotations

from typing import Any

_FACE = "0a6b1f2c-5d3e-5b8a-9c4d-7e6f5a4b3c2d"
_IMAGE = "b7c1d2e3-f405-5162-8374-95a6b7c8d9e0"
_JOB = "0192f3a4b5c6d7e8f9a0b1c2"
_BOX = {"x": 412.5, "y": 118.0, "width": 96.2, "height": 121.7}
_LANDMARKS = [[436.1, 163.0], [482.9, 161.4], [459.8, 190.2], [440.3, 214.9], [480.0, 213.6]]
_FOUND = {"box": _BOX, "confidence": 0.94, "quality": 0.71, "landmarks": _LANDMARKS}
_SIZE = {"width": 1200, "height": 800}
_TIMES = {"decode": 6.1, "detect": 9.0, "encode": 14.8}

BODIES: dict[str, dict[str, Any]] = {
    "search": {
        "by a photo's address": {"image_url": "https://media.example/2024/gala.jpg", "face": "all"},
        "by a face": {"face_id": _FACE, "limit": 20, "group_by": "media"},
        "by a person, filtered": {
            "subject_id": "ada",
            "filter": {"taken_at": {"$gte": "2024-01-01"}, "metadata.city": "Paris"},
        },
    },
    "compare": {
        "two addresses": {
            "source": {"image_url": "https://media.example/ada.jpg"},
            "target": {"image_url": "https://media.example/2024/gala.jpg"},
        }
    },
    "detect": {"an address": {"image_url": "https://media.example/2024/gala.jpg"}},
    "embed": {"an address": {"image_url": "https://media.example/ada.jpg", "model": "facenet512"}},
    "create_collection": {
        "with metadata": {"collection": "press", "metadata_fields": {"city": "string"}}
    },
    "redeclare_fields": {"two fields": {"metadata_fields": {"city": "string", "year": "number"}}},
    "put_media": {
        "an address": {
            "image_url": "https://media.example/2024/gala.jpg",
            "title": "Gala",
            "taken_at": "2024-05-01T19:30:00Z",
            "metadata": {"city": "Paris"},
        }
    },
    "create_subject": {"a person": {"subject_id": "ada", "name": "Ada Lovelace"}},
    "change_subject": {"a new name": {"name": "Ada King"}},
    "assign_faces": {"one face": {"face_ids": [_FACE]}},
    "unassign_faces": {"one face": {"face_ids": [_FACE]}},
    "reject_faces": {"one face": {"face_ids": [_FACE]}},
    "start_job": {"a backfill": {"kind": "backfill", "collection": "default"}},
    "cms_hook": {"a change": {"event": "changed", "source_key": "65f0c2a1b4e8d90012345678"}},
}

_STORED = {
    "face_id": _FACE,
    "media_id": "2024/gala.jpg",
    "image_id": _IMAGE,
    "collection": "default",
    "subject_id": "ada",
    "box": _BOX,
    "landmarks": _LANDMARKS,
    "confidence": 0.94,
    "quality": 0.71,
    "metadata": {"city": "Paris"},
    "taken_at": "2024-05-01T19:30:00.000Z",
    "created_at": "2024-05-02T02:00:07.512Z",
    "models": ["facenet512"],
}

ANSWERS: dict[str, Any] = {
    "healthz": {"status": "ok"},
    "readyz": {
        "status": "ready",
        "checks": {"encoder": "ready", "database": "ready", "vector_index": "ready"},
        "reasons": {},
    },
    "search": {
        "model": "facenet512",
        "image": _SIZE,
        "complete": True,
        "faces": [
            {
                **_FOUND,
                "matches": [
                    {
                        "face_id": _FACE,
                        "media_id": "2024/gala.jpg",
                        "image_id": _IMAGE,
                        "collection": "default",
                        "subject_id": "ada",
                        "subject": "Ada Lovelace",
                        "similarity": 0.83,
                        "score": 0.915,
                        "false_match_rate": None,
                        "box": _BOX,
                        "media": {
                            "url": "https://media.example/2024/gala.jpg",
                            "title": "Gala",
                            "taken_at": "2024-05-01T19:30:00.000Z",
                        },
                        "metadata": {"city": "Paris"},
                    }
                ],
            }
        ],
        "unsearched": [{"box": _BOX, "reason": "not_largest"}],
        "timings_ms": {**_TIMES, "search": 4.2},
    },
    "detect": {"image": _SIZE, "faces": [{**_FOUND, "reasons": []}], "timings_ms": _TIMES},
    "put_media": {
        "media_id": "2024/gala.jpg",
        "image_id": _IMAGE,
        "collection": "default",
        "model": "facenet512",
        "unchanged": False,
        "searchable": False,
        "faces": [{"face_id": _FACE, "box": _BOX, "confidence": 0.94, "quality": 0.71}],
        "unindexed": [],
        "image": _SIZE,
        "timings_ms": _TIMES,
    },
    "delete_media": {"media_id": "2024/gala.jpg", "faces_deleted": 1},
    "get_face": _STORED,
    "list_faces": {"items": [_STORED], "next_cursor": None},
    "start_job": {"job_id": _JOB},
    "erase_subject": {"job_id": _JOB},
    "delete_collection": {"job_id": _JOB},
    "redeclare_fields": {"job_id": _JOB},
    "cms_hook": {"job_id": _JOB},
}
