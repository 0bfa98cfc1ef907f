"""The search indexes as they stand, by the collections that are there."""

from __future__ import annotations

from pathlib import Path

from localatlas.catalog import Catalog, entry
from localatlas.indexes import Build, Indexes

FIELD = {"type": "vector", "path": "v", "numDimensions": 1, "similarity": "euclidean"}


def test_indexes_go_with_a_collection_that_was_renamed_while_nobody_followed(
    tmp_path: Path,
) -> None:
    catalog = Catalog(tmp_path / "catalog")
    indexes = Indexes(catalog, tmp_path, lambda live, build: None)
    made = [
        entry(("db", name), uuid, "vs", {"fields": [FIELD]})
        for name, uuid in (("kept", b"1"), ("renamed", b"2"), ("gone", b"3"))
    ]
    indexes.create(made)
    for live in indexes.all():
        assert live.staged is not None
        indexes.ready(live, live.staged)

    lost = indexes.missing({b"1": ("db", "kept"), b"2": ("other", "new"), b"4": ("db", "gone")})

    assert [live.entry.name for live in lost] == ["vs"]
    assert lost[0].entry.collection == "gone"
    assert indexes.likely(("db", "renamed"), "vs") is None
    assert isinstance(indexes.likely(("other", "new"), "vs"), Build)
    again = Catalog(tmp_path / "catalog")
    again.load()
    assert sorted(one.namespace for one in again) == [
        ("db", "gone"),
        ("db", "kept"),
        ("other", "new"),
    ]
