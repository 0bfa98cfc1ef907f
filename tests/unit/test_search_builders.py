"""The stages of a search, and what is made of its rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces import filters, search
from faces.records import Match
from faces.search import SearchRequest
from faces.types import Box
from localatlas.stage import parse_stage
from tests.faces_made import vector

SUBJECTS = st.sampled_from([None, "ann", "bob", "cy"])


def match(face_id: str, similarity: float, subject: str | None = None, media: str = "m") -> Match:
    return Match(face_id, media, "i", "c", subject, None, similarity, 0.5, Box(0, 0, 1, 1))


MATCHES = st.lists(
    st.builds(
        match,
        st.uuids().map(str),
        st.floats(-1, 1).map(lambda v: round(v, 3)),
        SUBJECTS,
        st.sampled_from(["m1", "m2", "m3"]),
    ),
    max_size=12,
)


def stage(request: SearchRequest, limit: int = 10, exact: bool = False) -> dict[str, Any]:
    return search.vector_stage(
        "i", "embeddings.facenet128", vector(1), limit, exact, search.stage_filter(request)
    )


@pytest.mark.parametrize(("fetched", "candidates"), [(1, 200), (10, 200), (50, 1000), (900, 10000)])
def test_candidates(fetched: int, candidates: int) -> None:
    spec = stage(SearchRequest(), fetched)["$vectorSearch"]
    assert spec["numCandidates"] == candidates == search.candidates(fetched)
    assert "exact" not in spec


def test_exact_has_no_candidates() -> None:
    spec = stage(SearchRequest(), exact=True)["$vectorSearch"]
    assert spec["exact"] is True
    assert "numCandidates" not in spec


@given(st.integers(1, search.MAX_ROWS), st.booleans(), st.sampled_from(["any", "none"]))
def test_every_stage_is_one_that_atlas_takes(limit: int, exact: bool, assigned: Any) -> None:
    tree = filters.parse({"media_id": {"$in": ["a", "b"]}}, {})
    made = stage(SearchRequest(filter=tree, assigned=assigned), limit, exact)
    query = parse_stage(made["$vectorSearch"])
    assert query.limit == limit


def test_vectors_are_dropped_directly_after_the_stage() -> None:
    made = search.pipeline(stage(SearchRequest("x")), SearchRequest("x"))
    project = made[1]["$project"]
    assert not any("embeddings" in name for name in project)
    assert project["score"] == {"$meta": "vectorSearchScore"}


def test_a_thousand_rows_for_a_few_groups_are_read_without_their_metadata() -> None:
    """Eight such searches at once took 400 MB, where each face had its 8 KB."""
    asked = {by: SearchRequest("x", group_by=by) for by in ("face", "media", "subject")}
    made = {by: search.pipeline(stage(one), one)[1]["$project"] for by, one in asked.items()}
    assert made["face"] == made["media"] | {"metadata": 1}
    assert made["media"] == made["subject"]


def test_rows_are_told_from_the_scope_behind_them() -> None:
    answer = [
        {"_id": "f", "score": 0.9},
        {"scope": "collection"},
        {"scope": "subject", "subject_id": "ann", "state": "erasing"},
        {"scope": "subject", "subject_id": "bob", "state": "deleting"},
    ]
    rows, scope = search.split(answer)
    assert rows == answer[:1]
    assert scope == search.Scope(True, frozenset({"ann"}), frozenset({"bob"}))
    assert not search.split([{"scope": "collection", "deleting": "job"}])[1].exists
    assert not search.split([])[1].exists


@pytest.mark.parametrize("changed", [{"hidden": True}, {"collection": "other"}])
def test_a_row_that_was_hidden_or_moved_meanwhile_does_not_fit(changed: dict[str, Any]) -> None:
    row = {"collection": "x", "hidden": False, "subject_id": None}
    assert search.still_fits(row, SearchRequest("x"), (), {})
    assert not search.still_fits({**row, **changed}, SearchRequest("x"), (), {})


def test_the_client_filter_cannot_widen_the_collection() -> None:
    tree = filters.parse({"$or": [{"media_id": "a"}, {"$not": {"media_id": "a"}}]}, {})
    built = search.stage_filter(SearchRequest("mine", filter=tree))
    assert built["$and"][:2] == [{"collection": {"$eq": "mine"}}, {"hidden": {"$eq": False}}]


@given(st.floats(-1, 1))
def test_score_and_similarity_are_each_others_inverse(cosine: float) -> None:
    assert search.similarity(search.score(cosine)) == pytest.approx(cosine, abs=1e-9)


@given(MATCHES, st.sampled_from(["media", "subject", "face"]))
def test_a_group_is_its_best_match(matches: list[Match], group_by: Any) -> None:
    groups = search.best_of_groups(matches, group_by)
    keys = [search.group_key(m, group_by) for m in groups]
    assert len(keys) == len(set(keys))
    assert set(keys) == {search.group_key(m, group_by) for m in matches}
    for group in groups:
        key = search.group_key(group, group_by)
        others = [m.similarity for m in matches if search.group_key(m, group_by) == key]
        assert group.similarity == max(others)
    assert [m.similarity for m in groups] == sorted((m.similarity for m in groups), reverse=True)


@given(st.lists(MATCHES, max_size=4))
def test_merging_keeps_the_highest_similarity_of_each_face(lists: list[list[Match]]) -> None:
    merged = search.merge(lists)
    every = [m for matches in lists for m in matches]
    assert {m.face_id for m in merged} == {m.face_id for m in every}
    for found in merged:
        assert found.similarity == max(m.similarity for m in every if m.face_id == found.face_id)


@given(st.lists(MATCHES, max_size=4))
def test_no_subject_is_claimed_by_two_faces_of_a_photo(faces: list[list[Match]]) -> None:
    claimed = search.claim_once(faces)
    owners: dict[str, set[int]] = {}
    for index, matches in enumerate(claimed):
        assert [m for m in faces[index] if m.subject_id is None] == [
            m for m in matches if m.subject_id is None
        ]
        for m in matches:
            if m.subject_id is not None:
                owners.setdefault(m.subject_id, set()).add(index)
    every = [m for matches in faces for m in matches if m.subject_id is not None]
    assert set(owners) == {m.subject_id for m in every}
    for subject, indexes in owners.items():
        (index,) = indexes
        best = max(m.similarity for m in every if m.subject_id == subject)
        assert any(m.similarity == best for m in faces[index] if m.subject_id == subject)
