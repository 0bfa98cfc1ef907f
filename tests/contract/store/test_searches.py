"""Searches against the embedded Atlas: order, groups, exclusions, filters, and never a wrong
empty answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from faces import filters, search, search_rounds
from faces import watch as watch_module
from faces.database import FACES
from faces.errors import Conflict, IndexNotReady, InvalidRequest, NotFound
from faces.finder import Finder
from faces.records import ActiveModel
from faces.search import SearchRequest, index_definition
from faces.types import Analysis, MediaInfo, MediaRef
from faces.watch import IndexState, Watch
from tests.contract.store.conftest import Searching
from tests.faces_made import analysis, face, near, row_of_faces, vector

ALL = SearchRequest(limit=100)


def put(
    searching: Searching, name: str, made: Analysis, collection: str = "default", **info: Any
) -> list[str]:
    ref = MediaRef(collection, name, "api", name)
    result = searching.store.put_item(ref, MediaInfo(**info), made, content=f"sha-{name}")
    return [found.face_id for found in result.faces]


def person(seed: int, of: int, noise: float = 0.3) -> Analysis:
    """A picture of one person, a little different each time."""
    made = face(0)
    return analysis(dataclasses.replace(made, embedding=near(seed, noise, of)))


@pytest.fixture
def gallery(searching: Searching) -> Searching:
    """Thirty pictures: three people in ten each."""
    searching.store.redeclare("default", {"album": "string", "year": "number"})
    searching.db["likeness_collections"].update_one({}, {"$set": {"pending_fields": []}})
    for who in range(3):
        for number in range(10):
            put(
                searching,
                f"p{who}-{number}",
                person(who, number, 0.1 * number),
                metadata={"album": f"a{who}", "year": 2000 + number},
            )
    searching.until(
        lambda: searching.finder.vectors(ALL, [vector(0)]), lambda found: len(found.faces[0]) == 30
    )
    return searching


@pytest.mark.parametrize("group_by", ["face", "media", "subject"])
def test_every_match_has_its_face_s_metadata(gallery: Searching, group_by: Any) -> None:
    """Also by groups, where a thousand rows without it are read for a few matches."""
    found = gallery.finder.vectors(SearchRequest(limit=9, group_by=group_by), [vector(1)])
    assert len(found.faces[0]) == 9
    for match in found.faces[0]:
        who, number = match.media_id.removeprefix("p").split("-")
        assert match.metadata == {"album": f"a{who}", "year": 2000 + int(number)}


def test_best_first_with_cosine_score_and_what_the_picture_is_called(gallery: Searching) -> None:
    put(gallery, "named", row_of_faces(77), title="A title", url="https://x/y.jpg")
    request = SearchRequest(limit=3)
    found = gallery.until(
        lambda: gallery.finder.vectors(request, [vector(77)]),
        lambda found: found.faces[0][0].media_id == "named",
    )
    best = found.faces[0][0]
    assert best.similarity == pytest.approx(1.0, abs=1e-5)
    assert best.score == pytest.approx((1 + best.similarity) / 2, abs=1e-6)
    assert (best.media.title, best.media.url) == ("A title", "https://x/y.jpg")
    order = [match.similarity for match in found.faces[0]]
    assert order == sorted(order, reverse=True)
    assert len(order) == 3


class Counter(monitoring.CommandListener):
    """The names of the commands that a client sends."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Not of interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Not of interest."""


def test_a_search_costs_two_ways_to_the_database_and_sees_a_deletion_at_once(
    gallery: Searching, place: str
) -> None:
    counter = Counter()
    with MongoClient[dict[str, Any]](place, event_listeners=[counter], tz_aware=True) as client:
        db = client[gallery.db.name]
        watch = Watch(db)
        finder = Finder(db, watch)
        request = SearchRequest(limit=10)
        first = finder.vectors(request, [vector(0)])
        counter.names.clear()
        assert finder.vectors(request, [vector(0)]) == first
        assert counter.names == ["aggregate", "aggregate"]
        face_id = first.faces[0][0].face_id
        counter.names.clear()
        finder.by_face(request, face_id)
        assert counter.names == ["find", "aggregate", "aggregate"]
        hide = {"$set": {"deleting": "a job"}}
        gallery.db["likeness_collections"].update_one({"_id": "default"}, hide)
        try:
            with pytest.raises(NotFound):
                finder.vectors(request, [vector(0)])
        finally:
            gallery.db["likeness_collections"].update_one(
                {"_id": "default"}, {"$unset": {"deleting": ""}}
            )


def test_similarity_is_the_cosine_of_the_stored_vectors(gallery: Searching) -> None:
    for match in gallery.finder.vectors(ALL, [vector(1)]).faces[0]:
        who, number = (int(part) for part in match.media_id[1:].split("-"))
        true = float(near(who, 0.1 * number, number) @ vector(1))
        assert match.similarity == pytest.approx(true, abs=1e-5)


def test_nothing_below_the_least_similarity(gallery: Searching) -> None:
    request = dataclasses.replace(ALL, min_similarity=0.5)
    found = gallery.finder.vectors(request, [vector(1)])
    assert {match.media_id[:2] for match in found.faces[0]} == {"p1"}
    assert found.complete


@pytest.mark.parametrize("exact", [True, False])
def test_exact_and_approximate_agree_on_a_small_gallery(gallery: Searching, exact: bool) -> None:
    request = dataclasses.replace(ALL, exact=exact, limit=5)
    assert gallery.media(request, vector(2)) == [f"p2-{n}" for n in range(5)]


class TestByFaceAndSubject:
    def test_the_query_face_is_left_out_unless_asked_for(self, gallery: Searching) -> None:
        own = gallery.store.item("default", "p1-0").faces[0].face_id
        request = SearchRequest(limit=4)
        found = gallery.finder.by_face(request, own)
        assert [m.media_id for m in found.faces[0]] == ["p1-1", "p1-2", "p1-3", "p1-4"]
        kept = dataclasses.replace(request, include_own=True)
        assert gallery.finder.by_face(kept, own).faces[0][0].face_id == own

    def test_a_face_of_another_collection_is_not_there(self, gallery: Searching) -> None:
        gallery.store.create_collection("other")
        own = gallery.store.item("default", "p1-0").faces[0].face_id
        with pytest.raises(NotFound):
            gallery.finder.by_face(SearchRequest("other"), own)

    def test_a_face_without_the_active_models_vector_says_so(self, gallery: Searching) -> None:
        own = gallery.store.item("default", "p1-0").faces[0].face_id
        gallery.db[FACES].update_one({"_id": own}, {"$unset": {"embeddings": ""}})
        with pytest.raises(Conflict):
            gallery.finder.by_face(SearchRequest(), own)

    def test_a_subject_is_searched_by_its_faces_without_them(self, gallery: Searching) -> None:
        gallery.store.subjects.create("default", "ann", "Ann")
        own = [gallery.store.item("default", f"p1-{n}").faces[0].face_id for n in range(6)]
        gallery.store.subjects.assign("default", "ann", own)
        request = SearchRequest(limit=4)
        found = gallery.finder.by_subject(request, "ann")
        assert {m.media_id for m in found.faces[0]} == {"p1-6", "p1-7", "p1-8", "p1-9"}
        kept = dataclasses.replace(request, include_own=True, limit=20, min_similarity=0.6)
        with_own = gallery.finder.by_subject(kept, "ann").faces[0]
        assert {m.face_id for m in with_own} >= set(own)
        assert {m.subject for m in with_own if m.face_id in own} == {"Ann"}

    def test_a_rejected_face_is_no_match_of_the_subject_until_it_is_assigned(
        self, gallery: Searching
    ) -> None:
        gallery.store.subjects.create("default", "ann")
        ids = [gallery.store.item("default", f"p1-{n}").faces[0].face_id for n in range(4)]
        gallery.store.subjects.assign("default", "ann", ids[:2])
        assert gallery.store.subjects.reject("default", "ann", ids[1:3]) == 2
        assert gallery.store.face(ids[1]).subject_id is None
        request = SearchRequest(limit=50)
        found = {m.face_id for m in gallery.finder.by_subject(request, "ann").faces[0]}
        assert not found & set(ids[:3])
        assert ids[3] in found
        gallery.store.subjects.assign("default", "ann", ids[1:2])
        gallery.store.subjects.unassign("default", "ann", ids[1:2])
        found = {m.face_id for m in gallery.finder.by_subject(request, "ann").faces[0]}
        assert ids[1] in found

    def test_a_subject_without_faces_or_unknown(self, gallery: Searching) -> None:
        gallery.store.subjects.create("default", "nobody")
        with pytest.raises(InvalidRequest):
            gallery.finder.by_subject(SearchRequest(), "nobody")
        with pytest.raises(NotFound):
            gallery.finder.by_subject(SearchRequest(), "unknown")


class TestGroups:
    def test_one_match_for_a_picture_and_one_for_a_subject(self, gallery: Searching) -> None:
        put(gallery, "crowd", analysis(*(face(100 * n, seed=500) for n in range(4))))
        request = SearchRequest(limit=2, group_by="media")
        gallery.until(
            lambda: gallery.finder.vectors(ALL, [vector(500)]),
            lambda found: len(found.faces[0]) == 34,
        )
        found = gallery.finder.vectors(request, [vector(500)]).faces[0]
        assert found[0].media_id == "crowd"
        assert len({m.media_id for m in found}) == 2

        gallery.store.subjects.create("default", "p1")
        ids = [gallery.store.item("default", f"p1-{n}").faces[0].face_id for n in range(10)]
        gallery.store.subjects.assign("default", "p1", ids)
        by_subject = gallery.finder.vectors(
            SearchRequest(limit=5, group_by="subject"), [vector(1)]
        ).faces[0]
        assert [m.subject_id for m in by_subject] == ["p1", None, None, None, None]
        assert len({m.face_id for m in by_subject}) == 5

    def test_a_group_that_hides_the_others_is_got_round(self, searching: Searching) -> None:
        # 60 faces of one picture are nearer than any other picture: more rounds find those.
        many = [
            dataclasses.replace(face(15 * (n % 60), 10 * n, 8), embedding=near(1, 0.01, n))
            for n in range(60)
        ]
        put(searching, "many", analysis(*many, size=(1000, 1000)))
        for n in range(4):
            put(searching, f"other{n}", person(1, n, 0.8))
        searching.until(
            lambda: searching.finder.vectors(dataclasses.replace(ALL, limit=100), [vector(1)]),
            lambda found: len(found.faces[0]) == 64,
        )
        request = SearchRequest(limit=3, group_by="media")
        found = searching.finder.vectors(request, [vector(1)])
        assert found.faces[0][0].media_id == "many"
        assert len(found.faces[0]) == 3
        assert found.complete

    def test_short_of_groups_after_all_rounds_is_not_complete(
        self, searching: Searching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(7):
            crowd = [
                dataclasses.replace(face(100 * n), embedding=near(1, 0.02 * number, n))
                for n in range(8)
            ]
            put(searching, f"m{number}", analysis(*crowd))
        searching.until(
            lambda: searching.finder.vectors(ALL, [vector(1)]),
            lambda found: len(found.faces[0]) == 56,
        )
        monkeypatch.setattr(search, "MAX_ROWS", 4)
        monkeypatch.setattr(search_rounds, "_SLACK", 0)
        request = SearchRequest(limit=6, group_by="media")
        found = searching.finder.vectors(request, [vector(1)])
        assert not found.complete
        assert [m.media_id for m in found.faces[0]] == ["m0", "m1", "m2", "m3"]
        enough = searching.finder.vectors(dataclasses.replace(request, limit=4), [vector(1)])
        assert enough.complete
        assert len(enough.faces[0]) == 4


class TestFilters:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({"media_id": "p1-3"}, {"p1-3"}),
            ({"metadata.album": "a1", "metadata.year": 2004}, {"p1-4"}),
            ({"metadata.year": {"$in": [2001, 2002.0]}, "metadata.album": "a0"}, {"p0-1", "p0-2"}),
            (
                {"$not": {"metadata.album": {"$in": ["a0", "a1"]}}},
                {f"p2-{n}" for n in range(10)},
            ),
            ({"$or": [{"media_id": "p0-0"}, {"media_id": "p2-0"}]}, {"p0-0", "p2-0"}),
            ({"created_at": {"$lt": "2001-01-01"}}, set()),
        ],
    )
    def test_select(self, gallery: Searching, value: object, expected: set[str]) -> None:
        info = gallery.store.collection("default")
        tree = filters.parse(value, info.metadata_fields, info.pending_fields)
        request = dataclasses.replace(ALL, filter=tree)
        assert set(gallery.media(request, vector(1))) == expected

    def test_only_unassigned(self, gallery: Searching) -> None:
        gallery.store.subjects.create("default", "ann")
        own = gallery.store.item("default", "p1-0").faces[0].face_id
        gallery.store.subjects.assign("default", "ann", [own])
        request = dataclasses.replace(ALL, assigned="none")
        # At once: the row says what it is now, whatever the index still holds.
        assert "p1-0" not in gallery.media(request, vector(1))


class TestHidden:
    def test_a_hidden_item_is_gone_from_search_at_once(self, gallery: Searching) -> None:
        ref = MediaRef("default", "p1-0", "api", "p1-0")
        gallery.store.update_info(ref, MediaInfo(hidden=True))
        assert "p1-0" not in gallery.media(ALL, vector(1))

    def test_other_collections_are_never_seen(self, gallery: Searching) -> None:
        gallery.store.create_collection("other")
        put(gallery, "theirs", person(1, 3), "other")
        theirs = SearchRequest("other", limit=10)
        gallery.until(
            lambda: gallery.finder.vectors(theirs, [vector(1)]), lambda found: bool(found.faces[0])
        )
        assert gallery.media(theirs, vector(1)) == ["theirs"]
        assert "theirs" not in gallery.media(ALL, vector(1))

    def test_an_erased_subjects_faces_are_gone_at_once(self, gallery: Searching) -> None:
        gallery.store.subjects.create("default", "ann")
        own = [gallery.store.item("default", f"p1-{n}").faces[0].face_id for n in range(5)]
        gallery.store.subjects.assign("default", "ann", own)
        gallery.store.subjects.erase("default", "ann")
        assert not set(gallery.media(ALL, vector(1))) & {f"p1-{n}" for n in range(5)}
        with pytest.raises(NotFound):
            gallery.store.face(own[0])
        with pytest.raises(NotFound):
            gallery.finder.by_face(ALL, own[0])
        assert own[0] not in {f.face_id for f in gallery.store.faces("default").items}


class TestIndexState:
    @pytest.fixture
    def other_index(self, searching: Searching) -> Iterator[ActiveModel]:
        """An active model whose index does not exist yet."""
        active = searching.store.active_model()
        assert active is not None
        other = dataclasses.replace(active, index="faces_facenet128_v9")
        yield other
        searching.db.command({"dropSearchIndex": FACES, "name": other.index})

    def test_a_missing_index_is_an_error_never_an_empty_answer(
        self, gallery: Searching, other_index: ActiveModel
    ) -> None:
        with pytest.raises(IndexNotReady, match="does not exist"):
            gallery.finder.vectors(ALL, [vector(1)], other_index)
        definition = index_definition("facenet128", 128)
        gallery.db.command(
            {
                "createSearchIndexes": FACES,
                "indexes": [
                    {"name": other_index.index, "type": "vectorSearch", "definition": definition}
                ],
            }
        )
        end = time.monotonic() + 60
        while True:  # every answer while it is built is an error or complete
            try:
                found = gallery.finder.vectors(ALL, [vector(1)], other_index)
            except IndexNotReady:
                assert time.monotonic() < end, "the index was never queryable"
                time.sleep(0.05)
                continue
            assert len(found.faces[0]) == 30
            break

    def test_a_database_without_a_model_is_not_ready(self, searching: Searching) -> None:
        searching.db["likeness_models"].delete_many({})
        watch = Watch(searching.db)
        with pytest.raises(IndexNotReady, match="migrations up"):
            watch.require_active()
        assert "migrations up" in watch.problems()["vector_index"]

    @pytest.mark.parametrize("status", ["BUILDING", "STALE", "FAILED"])
    def test_an_index_that_answers_is_served_and_named_whatever_its_state(
        self, gallery: Searching, monkeypatch: pytest.MonkeyPatch, status: str
    ) -> None:
        self.pretend(monkeypatch, status, queryable=True)
        gallery.watch = Watch(gallery.db)
        finder = Finder(gallery.db, gallery.watch)
        assert len(finder.vectors(ALL, [vector(1)]).faces[0]) == 30
        assert "still answers" in gallery.watch.problems()["index_state"]

    @pytest.mark.parametrize("status", ["PENDING", "BUILDING", "FAILED", "DELETING", "READY"])
    def test_an_index_that_does_not_answer_is_an_error_whatever_its_state(
        self, gallery: Searching, monkeypatch: pytest.MonkeyPatch, status: str
    ) -> None:
        self.pretend(monkeypatch, status, queryable=False)
        watch = Watch(gallery.db)
        with pytest.raises(IndexNotReady):
            Finder(gallery.db, watch).vectors(ALL, [vector(1)])
        assert "faces_facenet128_v1" in watch.problems()["vector_index"]

    def test_an_index_that_was_dropped_a_moment_ago_never_answers_nothing(
        self, searching: Searching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The collection is empty and so is the answer; what was read a moment ago says READY."""
        self.pretend(monkeypatch, "READY", queryable=True)
        watch = Watch(searching.db)
        finder = Finder(searching.db, watch)
        assert finder.vectors(ALL, [vector(1)]).faces == ((),)
        monkeypatch.setattr(watch_module, "list_indexes", lambda db: {})
        with pytest.raises(IndexNotReady):
            finder.vectors(ALL, [vector(1)])

    def pretend(self, monkeypatch: pytest.MonkeyPatch, status: str, *, queryable: bool) -> None:
        name = "faces_facenet128_v1"
        listed = {name: IndexState(name, status, queryable, index_definition("facenet128", 128))}
        monkeypatch.setattr(watch_module, "list_indexes", lambda db: listed)

    def test_a_flip_is_seen_within_two_seconds(self, searching: Searching) -> None:
        searching.watch.start()
        try:
            assert searching.watch.require_active().key == "facenet128"
            searching.db["likeness_models"].update_one({}, {"$set": {"model": "sface"}})
            end = time.monotonic() + 60
            while searching.watch.require_active().key != "sface":
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            searching.watch.stop()

    def test_a_ready_index_has_no_problems(self, searching: Searching) -> None:
        assert searching.watch.problems() == {}

    def test_a_vector_of_another_length_is_the_callers_mistake(self, gallery: Searching) -> None:
        with pytest.raises(InvalidRequest):
            gallery.finder.vectors(ALL, [vector(1, "facenet512")])
