"""The OpenAPI document, and a page made from it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from app.deps import ExchangeDep, ServicesDep, admit
from app.page import render
from app.problems import TITLES
from faces.errors import NotFound

router = APIRouter(include_in_schema=False)


async def docs_access(request: Request, parts: ServicesDep, exchange: ExchangeDep) -> None:
    """The rule of DOCS_ACCESS."""
    if parts.settings.docs_access == "off":
        raise NotFound("The documentation is switched off (DOCS_ACCESS).")
    if parts.settings.docs_access == "key":
        admit(request, parts, exchange, "search")


@router.get("/openapi.json", dependencies=[Depends(docs_access)])
def openapi_document(request: Request) -> Response:
    """The OpenAPI 3.1 document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", dependencies=[Depends(docs_access)])
def docs(request: Request) -> Response:
    """The routes, their parameters and errors as a page without scripts."""
    return render("docs.html", document=request.app.openapi(), codes=TITLES)
