"""Short names for long texts: where they are kept, and until when."""

from __future__ import annotations

from migrations.step import Command

_MONTH_S = 30 * 24 * 3600
_NAME = "likeness_aliases"
_INDEXES: list[Command] = [
    {"key": {"collection": 1}, "name": "by_collection"},
    {"key": {"at": 1}, "name": "old", "expireAfterSeconds": _MONTH_S},
]


def up() -> list[Command]:
    """Creates what is missing."""
    return [{"create": _NAME}, {"createIndexes": _NAME, "indexes": _INDEXES}]


def down() -> list[Command]:
    """Removes the indexes; what is kept stays."""
    return [{"dropIndexes": _NAME, "index": [index["name"] for index in _INDEXES]}]
