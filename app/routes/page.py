"""The page at `/`: search by photo with a form, better with its script."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from app.deps import ServicesDep
from app.page import STATIC, render
from app.readiness import readiness

router = APIRouter(include_in_schema=False)
router.mount("/static", StaticFiles(directory=STATIC), name="static")


@router.get("/")
def page(parts: ServicesDep) -> Response:
    """The page."""
    return render("page.html", state=readiness(parts), needs_key=bool(parts.keys))
