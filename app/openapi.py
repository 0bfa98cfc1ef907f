"""The OpenAPI 3.1 document: what the routes say, completed with what only we know.

Bodies are read by us and not by the framework, so their schemas are added here; so are the roles,
the problems that a route may answer with, and examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.bodies import Shape
from app.deps import ROLE_ATTRIBUTE, SHAPE_ATTRIBUTE, face_route
from app.examples import ANSWERS, BODIES
from app.forms import HookForm
from app.problems import MEDIA_TYPE
from app.wire import Problem

DESCRIPTION = """
Finds the faces in a CMS's pictures and answers who else looks like them. A similarity is a hint,
not an identification.

Photos come as `multipart/form-data` or in JSON as `image_url` or `image_base64`; parameters of a
form are form fields, never in the query string. Coordinates are pixels of the upright picture.
Lists answer `items` and `next_cursor`. Values out of range are refused, never clamped. Every error
is `application/problem+json`; `instance` is the request id, which `X-Request-ID` holds, too.
"""
TAGS = {
    "health": "Is the process there, is it ready, and how does it do.",
    "models": "Which models there are and which is in use.",
    "search": "Who else looks like this?",
    "photos": "Looking at photos without storing anything.",
    "collections": "Sets of pictures that are searched together.",
    "media": "Pictures and their faces.",
    "faces": "Indexed faces.",
    "subjects": "People.",
    "jobs": "Background work.",
    "hooks": "What the CMS calls.",
}
_PROBLEMS = {
    "400": "The request cannot be parsed, or a cursor is not of this list.",
    "401": "A valid API key is needed.",
    "403": "The key may not do that, or the service has no keys and you are another machine.",
    "404": "There is no such object, or the key does not reach it.",
    "408": "The body came too slowly.",
    "409": "The request contradicts the present state.",
    "413": "The body or the picture is over its cap.",
    "415": "The content type, or the format of the picture, is none of those accepted.",
    "422": "A field is missing, unknown, out of range or of the wrong type; or the picture is of "
    "no use.",
    "429": "Too many requests of this key or address.",
    "502": "The URL could not be fetched.",
    "503": "Not at the moment: `code` says why, `Retry-After` when to try again.",
    "504": "Our own deadline passed.",
}
_OPEN = {"healthz", "readyz"}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_REQUEST_ID = {"X-Request-ID": {"description": "The request id.", "schema": {"type": "string"}}}

_REQUEST_ID_PARAMETER = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "A UUID of your own for this request; anything else is replaced by a new one.",
    "schema": {"type": "string"},
}


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
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION.strip(),
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    routes = {r.name: r for r in api_routes(app) if r.include_in_schema}
    schemas.update(_schemas(routes.values()))
    components["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete(operation, routes[operation["operationId"]])
    return document


def api_routes(app: FastAPI) -> Iterator[APIRoute]:
    """All routes of the application, those of its routers too."""
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield route
        for inner in getattr(getattr(route, "original_router", None), "routes", ()):
            if isinstance(inner, APIRoute):
                yield inner


def _calls(dependant: Any) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


def _shape(route: APIRoute) -> Shape[Any] | None:
    found = (getattr(call, SHAPE_ATTRIBUTE, None) for call in _calls(route.dependant))
    return next((shape for shape in found if shape is not None), None)


def _schemas(routes: Any) -> dict[str, Any]:
    models = {shape.model for route in routes if (shape := _shape(route)) is not None}
    every: set[type[BaseModel]] = {*models, HookForm, Problem}
    wanted = sorted(every, key=lambda model: model.__name__)
    _, defined = models_json_schema(
        [(model, "validation") for model in wanted],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = defined["$defs"]
    for route in routes:
        shape = _shape(route)
        if shape is not None and shape.pictures:
            name = shape.model.__name__
            schemas[f"{name}Multipart"] = _multipart(schemas[name], shape)
    return schemas


def _multipart(schema: dict[str, Any], shape: Shape[Any]) -> dict[str, Any]:
    """The form of a body: its pictures as files, JSON parts as text."""
    properties = dict(schema["properties"])
    properties.pop("image_base64", None)
    for name in shape.json_fields:
        text = properties[name].get("description", "")
        properties[name] = {"type": "string", "description": f"{text} As JSON text.".strip()}
    for name in shape.pictures:
        properties[name] = {
            "type": "string",
            "format": "binary",
            "contentMediaType": "application/octet-stream",
            "description": "The file: JPEG, PNG or WebP by its bytes.",
        }
    return {
        **schema,
        "title": schema["title"] + "Multipart",
        "properties": properties,
        "required": list(shape.pictures) if shape.nested else schema.get("required", []),
    }


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    name = operation["operationId"]
    # The first sentence of what the route says is its summary.
    first = operation["description"].split("\n\n")[0].replace("\n", " ")
    operation["summary"] = re.split(r"(?<=[^.])[.;:](?:\s|$)", first)[0]
    calls = list(_calls(route.dependant))
    role = next((r for call in calls if (r := getattr(call, ROLE_ATTRIBUTE, None))), None)
    if name == "metrics":
        role = "search"
    if role is not None:
        operation["security"] = [{"ApiKey": []}, {"Bearer": []}]
        text = operation.get("description", "")
        operation["description"] = f"{text}\n\nNeeds a key of the role `{role}` or above.".strip()
    elif name in _OPEN:
        operation["security"] = []
    operation.setdefault("parameters", []).append(_REQUEST_ID_PARAMETER)
    shape = _shape(route)
    if shape is not None:
        operation["requestBody"] = _body(shape, name)
    elif name == "cms_hook":
        operation["security"] = []
        operation["requestBody"] = _content("HookForm", name)
    _answers(operation, name, role, shape, face=face_route in calls)


def _content(schema: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if name in BODIES:
        entry["examples"] = {label: {"value": value} for label, value in BODIES[name].items()}
    return {"required": True, "content": {"application/json": entry}}


def _body(shape: Shape[Any], name: str) -> dict[str, Any]:
    body = _content(shape.model.__name__, name)
    if shape.pictures:
        form = {"schema": {"$ref": f"#/components/schemas/{shape.model.__name__}Multipart"}}
        json = {} if shape.together else body["content"]
        body["content"] = {"multipart/form-data": form, **json}
    return body


def _answers(
    operation: dict[str, Any],
    name: str,
    role: str | None,
    shape: Shape[Any] | None,
    *,
    face: bool,
) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for status, response in responses.items():
        response["headers"] = {**_REQUEST_ID, **response.get("headers", {})}
        example = ANSWERS.get(name)
        content = response.get("content", {}).get("application/json")
        if example is not None and content is not None and status < "203":
            content["example"] = example
        if status == "202":
            response["headers"]["Location"] = {"schema": {"type": "string"}}
    codes = {"403"}
    if role is not None:
        codes |= {"400", "401", "404", "422", "429", "503"}
    if name == "cms_hook":
        codes |= {"400", "401", "408", "413", "422", "503"}
    if shape is not None:
        codes |= {"408", "409", "413", "415"}
    if face:
        codes |= {"409", "502", "504"}
    if operation["responses"].keys() & {"202"} or name.startswith(("delete", "cancel")):
        codes |= {"409"}
    if name in _OPEN:
        codes = set()
    for code in sorted(codes - responses.keys()):
        headers = _RETRY if code in ("429", "503") else {}
        responses[code] = {
            "description": _PROBLEMS[code],
            "headers": {**_REQUEST_ID, **headers},
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
