"""The document says what the service does, and the service does what the document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app import keys
from app.openapi import api_routes
from app.web import create_app
from faces.settings import Settings
from tests.contract.api import fuzz
from tests.contract.api.conftest import Start, migrate

pytestmark = pytest.mark.xdist_group("api")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(face_recognition_enabled=False)).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


CONTRACT = """
GET /healthz, GET /readyz, GET /metrics, GET /v1/models, POST /v1/search, POST /v1/compare,
POST /v1/detect, POST /v1/embed, POST /v1/collections, GET /v1/collections,
GET /v1/collections/{collection}, PATCH /v1/collections/{collection},
DELETE /v1/collections/{collection}, PUT /v1/collections/{collection}/media/{media_id},
GET /v1/collections/{collection}/media/{media_id},
DELETE /v1/collections/{collection}/media/{media_id}, GET /v1/collections/{collection}/media,
GET /v1/collections/{collection}/faces, GET /v1/collections/{collection}/thumbnails/{image_id},
GET /v1/faces/{face_id}, DELETE /v1/faces/{face_id}, POST /v1/collections/{collection}/subjects,
GET /v1/collections/{collection}/subjects, GET /v1/collections/{collection}/subjects/{subject_id},
PATCH /v1/collections/{collection}/subjects/{subject_id},
DELETE /v1/collections/{collection}/subjects/{subject_id},
GET /v1/collections/{collection}/subjects/{subject_id}/media,
POST /v1/collections/{collection}/subjects/{subject_id}/faces,
DELETE /v1/collections/{collection}/subjects/{subject_id}/faces,
POST /v1/collections/{collection}/subjects/{subject_id}/erase, POST /v1/hooks/cms, POST /v1/jobs,
GET /v1/jobs, GET /v1/jobs/{job_id}, GET /v1/jobs/{job_id}/failures, POST /v1/jobs/{job_id}/cancel
"""


def test_every_route_of_the_contract_is_described(document: dict[str, Any]) -> None:
    wanted = {route.strip() for route in CONTRACT.replace("\n", " ").split(",")}
    assert wanted <= {name for name, _ in operations(document)}


def test_every_route_of_the_api_is_in_the_document(document: dict[str, Any]) -> None:
    app = create_app(Settings(face_recognition_enabled=False))
    served = {
        f"{method} {route.path_format}"
        for route in api_routes(app)
        if route.include_in_schema
        for method in route.methods or ()
    }
    assert served == {name for name, _ in operations(document)}


def test_every_operation_is_described_whole(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    tags = {tag["name"] for tag in document["tags"]}
    ids = set()
    for name, operation in operations(document):
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert operation["operationId"] not in ids, name
        ids.add(operation["operationId"])
        assert "security" in operation, name
        for status, response in operation["responses"].items():
            if status >= "400" and name != "GET /readyz":
                content = response["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]
            if name == "POST /v1/embed/batch":  # files only
                assert set(content) == {"multipart/form-data"}
            else:
                assert content["application/json"]["examples"], name


def test_the_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        places = [operation.get("requestBody", {})]
        places += [operation["responses"][s] for s in operation["responses"] if s < "300"]
        for place in places:
            for content in place.get("content", {}).values():
                examples = [entry["value"] for entry in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                schema = {**content["schema"], "components": document["components"]}
                for example in examples:
                    errors = [
                        f"{name}: {error.message}"
                        for error in jsonschema_rs.validator_for(schema).iter_errors(example)
                    ]
                    assert not errors


def test_no_operation_breaks_its_description(
    start: Start, atlas: str, models_dir: Path, tmp_path: Path
) -> None:
    service = start("/readyz", **migrate(atlas), API_KEYS=keys.entry("fuzz", "admin", fuzz.KEY))
    assert fuzz.run(service.url, tmp_path, examples=2, seed=20261124, key=fuzz.KEY) == 0
    assert "unexpected_error" not in service.log.read_text()
