"""More faces than one transaction takes are a job's."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.auth import THIS_MACHINE
from app.bodies import Incoming
from app.forms import FaceIds
from app.routes import subjects
from app.services import Services

FACE = "00000000-0000-5000-8000-000000000000"


@pytest.mark.parametrize("route", [subjects.assign_faces, subjects.unassign_faces])
@pytest.mark.parametrize(("done", "status"), [(3, 200), ("0123", 202)])
def test_what_the_store_leaves_to_a_job_is_202(
    route: Callable[..., Any], done: int | str, status: int
) -> None:
    people = SimpleNamespace(assign=lambda *_: done, unassign=lambda *_: done)
    parts = cast(Services, SimpleNamespace(store=SimpleNamespace(subjects=people)))
    incoming = Incoming(FaceIds(face_ids=[FACE]), {})
    answer = route(parts, THIS_MACHINE, "default", "ada", incoming)
    assert answer.status_code == status
    if status == 202:
        assert json.loads(answer.body) == {"job_id": done}
        assert answer.headers["location"] == f"/v1/jobs/{done}"
