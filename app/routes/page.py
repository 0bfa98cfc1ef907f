"""The page at `/`: search by photo with a plain form; its script makes it more comfortable."""

from __future__ import annotations

import base64
import datetime as dt
import math
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from app import forms, photos
from app.auth import Caller, require
from app.bodies import Incoming, Shape, validate
from app.deps import Client, ClientDep, ExchangeDep, ServicesDep, body
from app.page import STATIC, render, state_text, word
from app.peers import client_of
from app.problems import status_of
from app.readiness import readiness
from app.routes.search import run
from app.schemas import Found
from app.schemas_service import Readiness
from app.services import Services
from app.wire import answer
from faces.errors import ImageError, LikenessError, NotFound, Unauthorized
from faces.models import cards

router = APIRouter(include_in_schema=False)


class _Static(StaticFiles):
    """Static files that a browser keeps but asks about, so that an upgrade shows at once."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


router.mount("/static", _Static(directory=STATIC), name="static")
MOST_THUMBNAILS = 24
OFF = "Face recognition is switched off on this service: nothing can be searched for."


class PageForm(forms.Form):
    """The form as a browser without scripts sends it: everything is text, absent means empty."""

    image_url: str = ""
    collection: str = "default"
    min_similarity: str = ""
    limit: str = "10"
    subject: str = ""
    taken_from: str = ""
    taken_before: str = ""
    one_per_media: str = ""
    unnamed: str = ""
    api_key: str = ""


# No JSON: what nobody has shown a key for is not parsed, which a MiB of brackets makes dear.
SHAPE = Shape(PageForm, pictures=("image",), together=True)


@dataclass(frozen=True, slots=True)
class _Photo:
    src: str
    width: int
    height: int
    full_width: float
    full_height: float
    boxes: list[dict[str, Any]]


@router.get("/")
@router.head("/")
def page(parts: ServicesDep) -> Response:
    """The page; a browser with scripts reads the query string itself."""
    return _page(parts, PageForm())


@router.get("/state", response_model=Readiness)
def state(parts: ServicesDep) -> Response:
    """What `/readyz` says, always with 200: a page that asks is no health check that failed."""
    return answer(readiness(parts))


@router.post("/")
def search_page(
    request: Request,
    parts: ServicesDep,
    exchange: ExchangeDep,
    incoming: Annotated[Incoming[PageForm], Depends(body(SHAPE, stranger=True))],
    client: ClientDep,
) -> Response:
    """The page with the results of the form."""
    form = incoming.form
    try:
        if parts.keys:
            parts.limits.address(client_of(request.scope, exchange.headers, parts.trusted))
        caller = parts.keys.caller({b"x-api-key": form.api_key.encode()})
        exchange.caller = caller.name
        if parts.keys:
            parts.limits.key(caller.name)
        require(caller, "search")
        parts.engine.check()
        return _results(parts, caller, client, form, incoming.pictures.get("image") or None)
    except LikenessError as error:
        status = status_of(error)
        text = error.detail
        if isinstance(error, Unauthorized):
            text = "Enter an API key to search."
        return _page(parts, form, status=status, problem=text)


def _results(
    parts: Services, caller: Caller, client: Client, form: PageForm, sent: bytes | None
) -> Response:
    wish: dict[str, Any] = {
        "collection": form.collection,
        "limit": form.limit or "10",
        "face": "all",
        "group_by": "media" if form.one_per_media else "face",
        "assigned": "none" if form.unnamed else "any",
        "filter": _filter(form),
        "min_similarity": form.min_similarity or None,
    }
    if form.image_url and sent is None:
        wish["image_url"] = form.image_url
    checked = validate(forms.SearchForm, wish, strict=False)
    caller.enter(checked.collection)
    data = photos.picture(parts, client, sent, checked.image_url, None)
    found = run(parts, client, checked, data)
    left = MOST_THUMBNAILS
    shown = []
    for face in found.faces:
        matches = []
        for match in face.matches:
            left -= 1
            matches.append(_match(parts, client, match, thumbnail=left >= 0))
        shown.append({"matches": matches})
    count = sum(len(face["matches"]) for face in shown)
    message = f"{len(found.faces)} face(s) searched, {count} result(s)."
    photo = _photo(parts, client, data, found)
    return _page(parts, form, found=shown, photo=photo, message=message)


def _filter(form: PageForm) -> dict[str, Any] | None:
    taken = {"$gte": form.taken_from, "$lt": form.taken_before}
    taken = {name: day for name, day in taken.items() if day}
    wish: dict[str, Any] = {}
    if taken:
        wish["taken_at"] = taken
    if form.subject:
        wish["subject_id"] = form.subject
    return wish or None


def _match(parts: Services, client: Client, match: Any, *, thumbnail: bool) -> dict[str, Any]:
    source = None
    if thumbnail:
        try:
            item, crop = parts.store.picture(match.collection, match.image_id)
            jpeg, _ = parts.thumbnail(item, crop, client.gone, client.deadline)
            source = _data_uri(jpeg)
        except (NotFound, ImageError):
            source = None
    taken = match.media.taken_at
    return {
        "thumbnail": source,
        "title": match.media.title or match.media_id,
        "source": url if (url := match.media.url or "").startswith(("https://", "http://")) else "",
        "percent": f"{match.similarity:.2f}",
        "word": word(match.similarity, cards.card(parts.active_model().key).threshold),
        "subject": match.subject or match.subject_id,
        "taken_at": f"{taken:%Y-%m-%d}" if isinstance(taken, dt.datetime) else None,
    }


def _photo(parts: Services, client: Client, data: bytes, found: Found) -> _Photo | None:
    size = found.image
    if size is None:
        return None
    scale = min(1.0, 320 / max(size.width, size.height))
    boxes = [{**f.box.model_dump(), "searched": True} for f in found.faces if f.box]
    boxes += [{**u.box.model_dump(), "searched": False} for u in found.unsearched]
    return _Photo(
        src=_data_uri(parts.shrink(data, client.gone)),
        width=math.ceil(size.width * scale),
        height=math.ceil(size.height * scale),
        full_width=size.width,
        full_height=size.height,
        boxes=boxes,
    )


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _page(
    parts: Services,
    form: PageForm,
    *,
    status: int = 200,
    found: list[dict[str, Any]] | None = None,
    photo: _Photo | None = None,
    message: str | None = None,
    problem: str | None = None,
) -> Response:
    state = readiness(parts)
    off = state.status == "disabled"
    model = parts.engine.model
    return render(
        "page.html",
        status,
        state=state,
        state_text=state_text(state),
        needs_key=bool(parts.keys),
        cap_mb=parts.settings.max_upload_bytes // (1024 * 1024),
        threshold=cards.card(model).threshold if model else "",
        query=form,
        found=found or [],
        photo=photo,
        message=message or (OFF if off else "Choose a photo to search with."),
        off=off,
        problem=problem,
    )
