"""Whatever is done in whatever order, the store and a plain dictionary say the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from faces.database import COLLECTIONS, CROPS, FACES, MEDIA, MIGRATIONS, OWN_COLLECTIONS, Db
from faces.errors import Conflict, NotFound, Tombstoned
from faces.job_handlers import HANDLERS
from faces.job_run import run_next
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.faces_made import MODEL, analysis, face

ITEMS = st.sampled_from(["a", "b", "c"])
PEOPLE = st.sampled_from(["ann", "bob"])
SOURCES = st.sampled_from(["api", "folder"])
PLACES = st.sets(st.integers(0, 3), max_size=3)
"""A face at place n is at the same spot in every picture."""


class Item:
    """What an item should be."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.content = ""
        self.faces: dict[int, str | None] = {}


class Machine(RuleBasedStateMachine):
    """The rules; the test sets the database. It is in a list because a driver's object has every
    attribute that it is asked for, the marks of a rule too."""

    place: ClassVar[list[Db]] = []

    def __init__(self) -> None:
        super().__init__()
        for name in OWN_COLLECTIONS:
            if name not in (MIGRATIONS, COLLECTIONS):
                self.place[0][name].delete_many({})
        self.store = Store(self.place[0])
        self.store.choose_model(MODEL, "b")
        for person in ("ann", "bob"):
            self.store.subjects.create("default", person)
        self.items: dict[str, Item] = {}
        self.gone: set[str] = set()
        self.deleted: dict[str, set[int]] = {}
        self.erased: dict[str, set[int]] = {}
        self.contents = 0

    @rule(name=ITEMS, source=SOURCES, places=PLACES, same=st.booleans())
    def put(self, name: str, source: str, places: set[int], same: bool) -> None:
        old = self.items.get(name)
        same = same and old is not None and bool(old.content)
        content = old.content if same and old else f"content-{self.contents}"
        self.contents += 1
        made = analysis(*(face(200 * place, seed=place) for place in sorted(places)))
        ref = MediaRef("default", name, source, name)

        def put() -> Any:
            return self.store.put_item(
                ref, MediaInfo(), made, content=content, crops=dict.fromkeys(range(3), b"j")
            )

        if old is not None and old.source != source:
            with pytest.raises(Conflict):
                put()
            return
        if old is None and source != "api" and name in self.gone:
            with pytest.raises(Tombstoned):
                put()
            return
        if old is None and source == "api":
            self.gone.discard(name)
            self.deleted.pop(name, None)
        result = put()
        assert result.created == (old is None)
        if same:
            assert result.unchanged
            return
        kept = places - self.deleted.get(name, set()) - self.erased.get(name, set())
        item = Item(source)
        item.content = content
        item.faces = {place: old.faces.get(place) if old else None for place in kept}
        self.items[name] = item

    @rule(name=ITEMS, by_api=st.booleans())
    def delete(self, name: str, by_api: bool) -> None:
        item = self.items.get(name)
        source = "api" if by_api else "folder"

        def delete() -> int:
            return self.store.delete_item("default", name, source=source, tombstone=by_api)

        if item is None:
            with pytest.raises(NotFound):
                delete()
        elif not by_api and item.source == "api":
            with pytest.raises(Conflict):
                delete()
        else:
            assert delete() == len(item.faces)
            del self.items[name]
            if by_api:
                self.gone.add(name)

    @rule(name=ITEMS, place=st.integers(0, 3))
    def delete_face(self, name: str, place: int) -> None:
        if (face_id := self.face_at(name, place)) is not None:
            self.store.delete_face(face_id)
            del self.items[name].faces[place]
            self.deleted.setdefault(name, set()).add(place)

    @rule(name=ITEMS, place=st.integers(0, 3), person=PEOPLE)
    def assign(self, name: str, place: int, person: str) -> None:
        if (face_id := self.face_at(name, place)) is not None:
            assert self.store.subjects.assign("default", person, [face_id]) == 1
            self.items[name].faces[place] = person

    @rule(name=ITEMS, place=st.integers(0, 3), person=PEOPLE)
    def unassign(self, name: str, place: int, person: str) -> None:
        if (face_id := self.face_at(name, place)) is not None:
            had = self.items[name].faces[place] == person
            assert self.store.subjects.unassign("default", person, [face_id]) == had
            if had:
                self.items[name].faces[place] = None

    @rule(person=PEOPLE)
    def delete_subject(self, person: str) -> None:
        mine = [(i, p) for i in self.items.values() for p, who in i.faces.items() if who == person]
        assert self.store.subjects.delete("default", person) == len(mine)
        for item, place in mine:
            item.faces[place] = None
        self.store.subjects.create("default", person)

    @rule(person=PEOPLE)
    def erase(self, person: str) -> None:
        job_id = self.store.subjects.erase("default", person)
        run_next(self.store, HANDLERS, holder=Holder.this_process("worker"))
        result = self.store.jobs.get(job_id).result
        assert result is not None
        count = 0
        for name, item in self.items.items():
            for place in [place for place, who in item.faces.items() if who == person]:
                del item.faces[place]
                self.erased.setdefault(name, set()).add(place)
                count += 1
        assert result["faces_deleted"] == count
        self.store.subjects.create("default", person)

    @invariant()
    def they_agree(self) -> None:
        stored = {item.media_id: item for item in self.store.items("default", limit=10).items}
        assert set(stored) == set(self.items)
        count = 0
        for name, item in self.items.items():
            faces = self.store.item("default", name).faces
            assert {round(f.box.x / 200): f.subject_id for f in faces} == item.faces
            assert stored[name].face_count == len(item.faces)
            assert stored[name].state == ("done" if item.faces else "no_face")
            count += len(faces)
        assert self.place[0][FACES].count_documents({}) == count, "no orphan"
        assert self.place[0][CROPS].count_documents({}) == count
        assert self.place[0][MEDIA].count_documents({"state": {"$ne": "gone"}}) == len(self.items)

    def face_at(self, name: str, place: int) -> str | None:
        if name not in self.items or place not in self.items[name].faces:
            return None
        faces = self.store.item("default", name).faces
        return next(f.face_id for f in faces if round(f.box.x / 200) == place)


@pytest.fixture
def machine(db: Db) -> Iterator[type[Machine]]:
    """The machine on the test's database."""
    Machine.place[:] = [db]
    yield Machine
    Machine.place.clear()


def test_the_store_is_a_dictionary(machine: type[Machine]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it untyped
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
