"""Background work: start it, follow it, see what failed, cancel it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path
from starlette.responses import Response

from app.bodies import Incoming, Shape
from app.deps import IndexCaller, PagingDep, SearchCaller, ServicesDep, body
from app.forms import JobForm
from app.routes.collections import accepted
from app.schemas_service import Job, JobAccepted, JobFailure
from app.wire import Page, answer, unless_known
from faces.errors import Forbidden

router = APIRouter(tags=["jobs"])
START = Shape(JobForm)
JobPath = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]


@router.post("/v1/jobs", response_model=JobAccepted, status_code=202)
def start_job(
    parts: ServicesDep,
    caller: IndexCaller,
    incoming: Annotated[Incoming[JobForm], Depends(body(START))],
) -> Response:
    """Start work that a worker does; when the same is under way already, that is the answer."""
    form = incoming.form
    if form.collection is not None:
        parts.store.collection(caller.enter(form.collection))
    elif caller.collections is not None:
        raise Forbidden("This key is bound to collections: name one of them as `collection`.")
    return accepted(parts.store.jobs.start(form.kind, form.collection, dry_run=form.dry_run))


@router.get(
    "/v1/jobs",
    response_model=Page[Job],
    responses={304: {"description": "Nothing has changed since the ETag of `If-None-Match`."}},
)
def list_jobs(
    parts: ServicesDep,
    caller: SearchCaller,
    paging: PagingDep,
    if_none_match: Annotated[str | None, Header(description="The ETag of an answer.")] = None,
) -> Response:
    """The jobs, newest first."""
    page = parts.store.jobs.page(paging.limit, paging.cursor, caller.collections)
    jobs = [Job.of(job) for job in page.items]
    return unless_known(Page[Job](items=jobs, next_cursor=page.next_cursor), if_none_match)


@router.get("/v1/jobs/{job_id}", response_model=Job)
def get_job(parts: ServicesDep, caller: SearchCaller, job_id: JobPath) -> Response:
    """One job with its progress, and its result once it has one."""
    return answer(Job.of(parts.store.jobs.get(job_id, caller.collections)))


@router.get("/v1/jobs/{job_id}/failures", response_model=Page[JobFailure])
def list_failures(
    parts: ServicesDep, caller: SearchCaller, job_id: JobPath, paging: PagingDep
) -> Response:
    """What a job could not do, item by item."""
    parts.store.jobs.get(job_id, caller.collections)
    page = parts.store.jobs.failures(job_id, paging.limit, paging.cursor)
    return answer(
        Page[JobFailure](
            items=[
                JobFailure(key=f.key, error=f.error, detail=f.detail, at=f.at) for f in page.items
            ],
            next_cursor=page.next_cursor,
        )
    )


@router.post("/v1/jobs/{job_id}/cancel", response_model=Job)
def cancel_job(parts: ServicesDep, caller: IndexCaller, job_id: JobPath) -> Response:
    """Ask a job to stop; one that has not begun is cancelled at once."""
    parts.store.jobs.get(job_id, caller.collections)
    return answer(Job.of(parts.store.jobs.cancel(job_id)))
