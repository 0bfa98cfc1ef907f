"""Collections: create, list, count, redeclare their metadata fields, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.bodies import Incoming, Shape
from app.deps import (
    AdminCaller,
    CollectionPath,
    PagingDep,
    SearchCaller,
    ServicesDep,
    body,
)
from app.forms import CollectionForm, FieldsForm
from app.schemas_service import Collection, CollectionDetail, JobAccepted
from app.wire import Page, answer
from faces.errors import Forbidden

router = APIRouter(tags=["collections"])
CREATE = Shape(CollectionForm)
REDECLARE = Shape(FieldsForm)


@router.post("/v1/collections", response_model=Collection, status_code=201)
def create_collection(
    parts: ServicesDep,
    caller: AdminCaller,
    incoming: Annotated[Incoming[CollectionForm], Depends(body(CREATE))],
) -> Response:
    """A new, empty collection."""
    form = incoming.form
    if not caller.sees(form.collection):
        raise Forbidden("This key is bound to other collections.")
    info = parts.store.create_collection(form.collection, form.metadata_fields)
    return answer(Collection.of(info), 201, location=f"/v1/collections/{info.name}")


@router.get("/v1/collections", response_model=Page[Collection])
def list_collections(parts: ServicesDep, caller: SearchCaller, paging: PagingDep) -> Response:
    """The collections that the key reaches, by name."""
    page = parts.store.collections(paging.limit, paging.cursor, caller.collections)
    return answer(
        Page[Collection](
            items=[Collection.of(info) for info in page.items], next_cursor=page.next_cursor
        )
    )


@router.get("/v1/collections/{collection}", response_model=CollectionDetail)
def get_collection(
    parts: ServicesDep, caller: SearchCaller, collection: CollectionPath
) -> Response:
    """One collection with its counts."""
    info = parts.store.collection(caller.enter(collection), counts=True)
    return answer(CollectionDetail.of(info))


@router.patch("/v1/collections/{collection}", response_model=JobAccepted, status_code=202)
def redeclare_fields(
    parts: ServicesDep,
    caller: AdminCaller,
    collection: CollectionPath,
    incoming: Annotated[Incoming[FieldsForm], Depends(body(REDECLARE))],
) -> Response:
    """Declare other metadata fields; a job makes the stored items answer to them."""
    job = parts.store.redeclare(caller.enter(collection), incoming.form.metadata_fields)
    return accepted(job)


@router.delete("/v1/collections/{collection}", response_model=JobAccepted, status_code=202)
def delete_collection(
    parts: ServicesDep, caller: AdminCaller, collection: CollectionPath
) -> Response:
    """Delete the collection with all that it holds; it is hidden at once."""
    return accepted(parts.store.delete_collection(caller.enter(collection)))


def accepted(job_id: str) -> Response:
    """202 with the job that goes on."""
    return answer(JobAccepted(job_id=job_id), 202, location=f"/v1/jobs/{job_id}")
