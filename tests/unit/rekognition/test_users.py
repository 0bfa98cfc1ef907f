"""Which faces a user gets: those that look like one that the user has by then."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from app.rekognition import users
from app.rekognition.call import Call
from faces.types import Vector
from tests.faces_made import MODEL, vector


class Finder:
    """Has a vector for each face, a bit too short as many of float32 are; the user has none."""

    def stored(self, *_: object, subject_id: str = "", **asked: Any) -> Mapping[str, Vector]:
        short = vector(1) * np.float32(0.9999999)
        return {} if subject_id else dict.fromkeys(asked["face_ids"], short)


def test_the_first_face_given_is_like_itself_at_any_threshold() -> None:
    call = SimpleNamespace(
        collection="c",
        model=SimpleNamespace(key=MODEL),
        parts=SimpleNamespace(finder=Finder()),
        given={"UserMatchThreshold": 100.0},
    )
    assert users._alike(cast(Call, call), "ann", ["a", "b"]) == (["a", "b"], [])
