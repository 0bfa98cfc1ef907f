"""People: create, name, list, give faces to them, take faces from them, erase them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from app.bodies import Incoming, Shape
from app.deps import (
    AdminCaller,
    CollectionPath,
    IndexCaller,
    PagingDep,
    SearchCaller,
    ServicesDep,
    SubjectPath,
    body,
)
from app.forms import FaceIds, SubjectChange, SubjectForm
from app.routes.collections import accepted
from app.schemas import MediaItem
from app.schemas_service import Assigned, JobAccepted, Rejected, Subject, SubjectDeleted, Unassigned
from app.wire import Page, answer

router = APIRouter(tags=["subjects"])
CREATE = Shape(SubjectForm)
CHANGE = Shape(SubjectChange)
FACES = Shape(FaceIds)
ALL = "/v1/collections/{collection}/subjects"
ONE = ALL + "/{subject_id}"
MANY: dict[int | str, dict[str, Any]] = {
    202: {"model": JobAccepted, "description": "More than 500 faces: a job does it."}
}
LATER: dict[int | str, dict[str, Any]] = {
    202: {"model": JobAccepted, "description": "More than 500 faces: a job does it."}
}


@router.post(ALL, response_model=Subject, status_code=201)
def create_subject(
    parts: ServicesDep,
    caller: IndexCaller,
    collection: CollectionPath,
    incoming: Annotated[Incoming[SubjectForm], Depends(body(CREATE))],
) -> Response:
    """A new person without faces."""
    form = incoming.form
    made = parts.store.subjects.create(
        caller.enter(collection), form.subject_id, form.name, form.metadata
    )
    place = f"/v1/collections/{collection}/subjects/{made.subject_id}"
    return answer(Subject.of(made), 201, location=place)


@router.get(ALL, response_model=Page[Subject])
def list_subjects(
    parts: ServicesDep,
    caller: SearchCaller,
    collection: CollectionPath,
    paging: PagingDep,
    q: Annotated[
        str | None, Query(min_length=1, max_length=200, description="The beginning of the name.")
    ] = None,
) -> Response:
    """The people of a collection, by id, or by name when `q` gives its beginning."""
    page = parts.store.subjects.list(
        caller.enter(collection), q=q, limit=paging.limit, cursor=paging.cursor
    )
    return answer(
        Page[Subject](
            items=[Subject.of(subject) for subject in page.items], next_cursor=page.next_cursor
        )
    )


@router.get(ONE, response_model=Subject)
def get_subject(
    parts: ServicesDep, caller: SearchCaller, collection: CollectionPath, subject_id: SubjectPath
) -> Response:
    """One person with the number of their faces."""
    return answer(Subject.of(parts.store.subjects.get(caller.enter(collection), subject_id)))


@router.patch(ONE, response_model=Subject)
def change_subject(
    parts: ServicesDep,
    caller: IndexCaller,
    collection: CollectionPath,
    subject_id: SubjectPath,
    incoming: Annotated[Incoming[SubjectChange], Depends(body(CHANGE))],
) -> Response:
    """Change a person's name or metadata; what the body lacks stays as it is."""
    sent = incoming.form
    changes = {name: getattr(sent, name) for name in sent.model_fields_set}
    changed = parts.store.subjects.update(caller.enter(collection), subject_id, **changes)
    return answer(Subject.of(changed))


@router.delete(
    ONE,
    response_model=SubjectDeleted,
    responses=LATER,
)
def delete_subject(
    parts: ServicesDep, caller: IndexCaller, collection: CollectionPath, subject_id: SubjectPath
) -> Response:
    """Delete a person; their faces stay, without a subject."""
    done = parts.store.subjects.delete(caller.enter(collection), subject_id)
    if isinstance(done, str):
        return accepted(done)
    return answer(SubjectDeleted(subject_id=subject_id, faces_unassigned=done))


@router.get(ONE + "/media", response_model=Page[MediaItem])
def list_subject_media(
    parts: ServicesDep,
    caller: SearchCaller,
    collection: CollectionPath,
    subject_id: SubjectPath,
    paging: PagingDep,
) -> Response:
    """All photos of a person, newest first."""
    page = parts.store.subjects.media(
        caller.enter(collection), subject_id, limit=paging.limit, cursor=paging.cursor
    )
    return answer(
        Page[MediaItem](
            items=[MediaItem(**MediaItem.fields(item)) for item in page.items],
            next_cursor=page.next_cursor,
        )
    )


@router.post(ONE + "/faces", response_model=Assigned, responses=LATER)
def assign_faces(
    parts: ServicesDep,
    caller: IndexCaller,
    collection: CollectionPath,
    subject_id: SubjectPath,
    incoming: Annotated[Incoming[FaceIds], Depends(body(FACES))],
) -> Response:
    """Give faces to a person, also faces that another person had; above 500 as a job."""
    done = parts.store.subjects.assign(caller.enter(collection), subject_id, incoming.form.face_ids)
    if isinstance(done, str):
        return accepted(done)
    return answer(Assigned(subject_id=subject_id, faces_assigned=done))


@router.delete(ONE + "/faces", response_model=Unassigned, responses=LATER)
def unassign_faces(
    parts: ServicesDep,
    caller: IndexCaller,
    collection: CollectionPath,
    subject_id: SubjectPath,
    incoming: Annotated[Incoming[FaceIds], Depends(body(FACES))],
) -> Response:
    """Take faces from a person; faces that are not theirs are left alone. Above 500 as a job."""
    done = parts.store.subjects.unassign(
        caller.enter(collection), subject_id, incoming.form.face_ids
    )
    if isinstance(done, str):
        return accepted(done)
    return answer(Unassigned(subject_id=subject_id, faces_unassigned=done))


@router.post(ONE + "/rejections", response_model=Rejected)
def reject_faces(
    parts: ServicesDep,
    caller: IndexCaller,
    collection: CollectionPath,
    subject_id: SubjectPath,
    incoming: Annotated[Incoming[FaceIds], Depends(body(FACES))],
) -> Response:
    """Say that faces are not this person's: they are taken from them, and a search by this person
    leaves them out from then on. Assigning such a face lifts it."""
    count = parts.store.subjects.reject(
        caller.enter(collection), subject_id, incoming.form.face_ids
    )
    return answer(Rejected(subject_id=subject_id, faces_rejected=count))


@router.post(ONE + "/erase", response_model=JobAccepted, status_code=202)
def erase_subject(
    parts: ServicesDep, caller: AdminCaller, collection: CollectionPath, subject_id: SubjectPath
) -> Response:
    """Remove every face of a person, keep them from coming back, and prove it.

    The faces are hidden at once; the job's `result` is the receipt.
    """
    return accepted(parts.store.subjects.erase(caller.enter(collection), subject_id))
