"""Pages: templates, the headers that they need, and static files."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from app.schemas_service import Readiness
from faces.search import reaches

HERE = Path(__file__).parent
STATIC = HERE / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# A form's own Origin is hidden, too, under the API's stricter referrer policy.
HEADERS = {"content-security-policy": CSP, "referrer-policy": "same-origin"}


@functools.cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["kind"] = kind
    made.filters["prose"] = prose
    made.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return made


def prose(text: str) -> Markup:
    """Escaped text in which `words` between backticks are code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a word or two, for the documentation page."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(kind(inner) for inner in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def state_text(state: Readiness) -> str:
    """The readiness in a sentence that a person can read."""
    if state.status == "ready":
        return "Ready."
    if state.status == "disabled":
        return "Face recognition is switched off here."
    return " ".join(state.reasons.values()) or "Starting."


def word(similarity: float, threshold: float) -> str:
    """A similarity in words, relative to the threshold of the model's card."""
    if reaches(similarity, threshold + 0.5 * (1 - threshold)):
        return "very similar"
    if reaches(similarity, threshold):
        return "similar"
    return "below the threshold"


def render(name: str, status: int = 200, **values: object) -> HTMLResponse:
    """A template as a page under a strict content security policy."""
    text = _templates().get_template(name).render(**values)
    return HTMLResponse(text, status, headers=HEADERS)
