"""Faces and pictures keep their ids; no two get the same."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from faces import identity
from faces.types import Box

SIDES = st.floats(0.05, 0.4)
PLACES = st.floats(0.0, 0.6)
BOXES = st.builds(Box, PLACES, PLACES, SIDES, SIDES)


def test_ids_are_stable_across_releases() -> None:
    # Stored ids depend on these values: a change here loses every label.
    assert identity.image_id("default", "a/b.jpg", "00" * 32) == (
        "218d12da-a9a5-5cb7-90b4-4ba3fbb5b8c3"
    )
    assert identity.face_id("default", "a/b.jpg", "00" * 32, Box(0.5, 0.25, 0.1, 0.2)) == (
        "47670f0a-3e5a-56b7-adc8-4273454993ef"
    )


@given(BOXES, st.text(), st.text())
def test_a_face_id_is_a_lower_case_uuid_that_depends_on_its_item(
    box: Box, one: str, other: str
) -> None:
    first = identity.face_id("c", one, "sha", box)
    assert str(uuid.UUID(first)) == first
    assert uuid.UUID(first).version == 5
    assert (first == identity.face_id("c", other, "sha", box)) == (one == other)


def test_a_shift_below_half_a_grid_cell_keeps_the_id() -> None:
    box = Box(10 / 64, 20 / 64, 8 / 64, 8 / 64)
    moved = Box(box.x + 0.4 / 64, box.y - 0.4 / 64, box.width, box.height)
    assert identity.face_id("c", "m", "s", box) == identity.face_id("c", "m", "s", moved)
    far = Box(box.x + 0.6 / 64, box.y, box.width, box.height)
    assert identity.face_id("c", "m", "s", box) != identity.face_id("c", "m", "s", far)


@given(st.integers(1, 30), BOXES)
def test_a_crowd_in_one_grid_cell_gets_different_ids(count: int, box: Box) -> None:
    taken: set[str] = set()
    for _ in range(count):
        taken.add(identity.face_id("c", "m", "s", box, taken))
    assert len(taken) == count


@given(st.lists(BOXES, max_size=8), st.lists(BOXES, max_size=8))
def test_matching_is_one_to_one_and_never_below_half_overlap(
    stored: list[Box], found: list[Box]
) -> None:
    matched = identity.match_boxes(stored, found)
    assert len(matched) == len(found)
    used = [index for index in matched if index is not None]
    assert len(used) == len(set(used))
    for index, box in zip(matched, found, strict=True):
        if index is not None:
            assert stored[index].iou(box) >= identity.SAME_FACE
        else:
            # Left over only because every stored face that it could be went to a better match.
            assert all(
                i in used for i, old in enumerate(stored) if old.iou(box) >= identity.SAME_FACE
            )


@given(st.lists(BOXES, max_size=8))
def test_the_same_boxes_match_themselves(boxes: list[Box]) -> None:
    matched = identity.match_boxes(boxes, boxes)
    assert [boxes[index] for index in matched if index is not None] == boxes


def test_the_larger_overlap_wins() -> None:
    stored = [Box(0, 0, 10, 10)]
    found = [Box(3, 0, 10, 10), Box(1, 0, 10, 10)]
    assert identity.match_boxes(stored, found) == [None, 0]
