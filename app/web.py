"""The application object: routes, the edge around them, and the lifespan of their services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from app import exchange as exchanges
from app import log, openapi, problems
from app.edge import Dialect, Edge
from app.embedded import EmbeddedWorker
from app.metrics import Metrics
from app.rekognition import endpoint, faults
from app.rekognition.keys import AccessKeys
from app.routes import (
    analyse,
    collections,
    docs,
    faces,
    health,
    hooks,
    jobs,
    media,
    models,
    page,
    search,
    subjects,
    thumbnails,
)
from app.services import Services, build, check
from app.tracing import Tracing
from faces.errors import LikenessError
from faces.settings import Settings

VERSION = "1.0.0"
ENCODER = (health.router, docs.router, models.router, analyse.router)
ALL = (
    *(health.router, page.router, docs.router, models.router, search.router, analyse.router),
    *(collections.router, thumbnails.router, media.router, faces.router, subjects.router),
    *(jobs.router, hooks.router),
)


def create_app(
    settings: Settings,
    *,
    encoder_only: bool = False,
    make: Callable[[Settings], Services] | None = None,
) -> FastAPI:
    """The application. Opens nothing: its services start with the server and stop with it.

    Raises ConfigError for settings that a service must not start with.
    """
    keys = check(settings)
    metrics = Metrics()
    tracing = Tracing(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.configure()
        services = make(settings) if make else build(settings, metrics, encoder_only=encoder_only)
        app.state.services = services
        services.start()
        tracing.start()
        worker = EmbeddedWorker() if settings.indexer_embedded and not encoder_only else None
        if worker is not None:
            worker.start()
        try:
            yield
        finally:
            if worker is not None:
                worker.stop()
            services.stop()
            tracing.stop()

    access = AccessKeys(settings.aws_dialect_keys.get_secret_value(), keyless=not keys)
    middleware = [
        Middleware(
            Edge,
            metrics=metrics,
            tracing=tracing,
            keyless=not keys,
            production=settings.production,
            dialects=[Dialect(endpoint.PATHS, faults.response, keyless=not keys and not access)],
        )
    ]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["authorization", "content-type", "x-api-key"],
                expose_headers=["x-request-id", "retry-after", "location"],
            )
        )
    app = FastAPI(
        title="Likeness",
        version=VERSION,
        summary="Finds the faces in a CMS's pictures, and the other pictures that they are in.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=middleware,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            LikenessError: _own,
            HTTPException: _framework,
            RequestValidationError: _parameters,
        },
    )
    for router in ENCODER if encoder_only else ALL:
        app.include_router(router)
    if not encoder_only:
        app.router.routes.extend(endpoint.Endpoint(access).routes())
    openapi.install(app)
    return app


async def _own(request: Request, error: Exception) -> Response:
    assert isinstance(error, LikenessError)  # noqa: S101 - the framework's signature is wider
    return problems.from_error(error, exchanges.of(request.scope).request_id)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the framework's signature is wider
    if error.status_code == 405:
        error.headers = {"Allow": ", ".join(_allowed(request))}
    return problems.from_http(error, exchanges.of(request.scope).request_id)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes at this path; the framework names only the first route's."""
    found: set[str] = set()
    for route in openapi.api_routes(request.app):
        match, _ = route.matches(request.scope)
        if match != Match.NONE:
            found |= route.methods or set()
    return sorted(found)


async def _parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the same
    return problems.from_validation(error, exchanges.of(request.scope).request_id)
