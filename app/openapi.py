"""The OpenAPI 3.1 document: what the routes say, completed with what only we know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def install(app: FastAPI) -> None:
    """Let `app.openapi()` give the completed document, made once when it is first asked for."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(build(app))
        return made

    app.openapi = document  # type: ignore[method-assign] # the framework's own extension point


def build(app: FastAPI) -> dict[str, Any]:
    """The document."""
    return get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
