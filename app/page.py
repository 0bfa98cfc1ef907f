"""Pages: templates, the headers that they need, and static files."""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app.schemas import Readiness

HERE = Path(__file__).parent
STATIC = HERE / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def state_text(state: Readiness) -> str:
    """The readiness in a sentence that a person can read."""
    if state.status == "ready":
        return "Ready."
    if state.status == "disabled":
        return "Face recognition is switched off here."
    return " ".join(state.reasons.values()) or "Starting."


def word(similarity: float, threshold: float) -> str:
    """A similarity in words, relative to the threshold of the model's card."""
    if similarity >= threshold + 0.5 * (1 - threshold):
        return "very similar"
    if similarity >= threshold:
        return "similar"
    return "below the threshold"


def render(name: str, status: int = 200, **values: object) -> HTMLResponse:
    """A template as a page under a strict content security policy."""
    text = _templates().get_template(name).render(**values)
    return HTMLResponse(text, status, headers={"content-security-policy": CSP})
