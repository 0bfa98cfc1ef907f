"""The rounds of one search, where the index lags behind the documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faces.database import FACES
from faces.records import ActiveModel
from faces.search import SearchRequest, reaches
from faces.search_rounds import SearchRounds
from tests.faces_made import MODEL, vector

ACTIVE = ActiveModel(MODEL, "b1", "i")


class Lagging:
    """Faces f0, f1, … by falling similarity; the index does not know yet which are gone."""

    def __init__(self, size: int, gone: set[int], hidden: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.size, self.gone, self.hidden = size, gone, hidden
        self.commands: list[int] = []

    def aggregate(self, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        limit = stages[0]["$vectorSearch"]["limit"]
        assert '"$nin": []' not in json.dumps(stages[0]["$vectorSearch"]["filter"]), "Atlas refuses"
        self.commands.append(limit)
        rows = [self.row(number) for number in range(self.size)[:limit] if number not in self.gone]
        return [*rows, {"scope": "collection"}]

    def row(self, number: int) -> dict[str, Any]:
        return {
            "_id": f"f{number:03}",
            "media_id": f"m{number}",
            "image_id": "i",
            "collection": "c",
            "subject_id": None,
            "hidden": number in self.hidden,
            "score": 0.99 - number / 10_000,
            "box": {"x": 0, "y": 0, "width": 1, "height": 1},
        }


def run(faces: Lagging, known: int, **request: Any) -> tuple[list[str], bool]:
    one = SearchRounds(
        {FACES: faces},  # type: ignore[arg-type]
        SearchRequest("c", **request),
        ACTIVE,
        own={},
        rejected=frozenset(),
        exact=True,
        size=known,
    )
    matches, complete = one.run(vector(1))
    return [match.face_id for match in matches][: request.get("limit", 10)], complete


@pytest.mark.parametrize("score", [0.90617265, 0.90617285])
def test_a_similarity_that_was_told_can_be_asked_for(score: float) -> None:
    """It is told with six decimals, and is as often a bit below that as above."""

    class One(Lagging):
        def row(self, number: int) -> dict[str, Any]:
            return {**super().row(number), "score": score}

    told = round(2 * score - 1, 6)
    assert run(One(1, set()), 1, min_similarity=told)[0] == ["f000"]
    assert run(One(1, set()), 1, min_similarity=told + 0.000002)[0] == []


def test_the_same_face_reaches_the_highest_threshold() -> None:
    assert reaches(0.99999994, 1.0)
    assert not reaches(0.9999994, 1.0)


@pytest.mark.parametrize("fault", ["gone", "hidden"])
def test_what_is_no_longer_there_does_not_shorten_the_answer(fault: str) -> None:
    dropped = set(range(30))
    faces = Lagging(100, dropped) if fault == "gone" else Lagging(100, set(), dropped)
    found, complete = run(faces, 100)
    assert found == [f"f{number:03}" for number in range(30, 40)]
    assert complete
    assert len(faces.commands) == 2


@pytest.mark.parametrize("group_by", ["media", "subject"])
@pytest.mark.parametrize("fault", ["gone", "hidden"])
def test_a_first_round_of_nothing_but_what_is_gone_is_followed_by_another(
    fault: str, group_by: str
) -> None:
    dropped = set(range(150))
    faces = Lagging(200, dropped) if fault == "gone" else Lagging(200, set(), dropped)
    found, _ = run(faces, 200, group_by=group_by)
    assert found == [f"f{number:03}" for number in range(150, 160)]


def test_a_collection_that_holds_no_more_is_asked_once() -> None:
    faces = Lagging(5, set())
    assert run(faces, 5) == ([f"f{number:03}" for number in range(5)], True)
    assert len(faces.commands) == 1


def test_what_lies_below_the_threshold_is_not_looked_for() -> None:
    faces = Lagging(100, {1, 2})
    found, _ = run(faces, 100, min_similarity=0.9795)
    assert found == ["f000"]
    assert len(faces.commands) == 1
