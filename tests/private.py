"""What may not be in any log line or error, and where it is found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

MARK = "c4n4ry"
"""In every key, name and URL query that the fixtures make up: nobody else writes it."""

PATTERNS = {
    "a value made up by a fixture": re.compile(MARK.encode()),
    "numbers of an embedding": re.compile(rb"(?:-?\d+\.\d+(?:e-?\d+)?[\],\s]+){12}"),
    "more than 400 bytes in base64": re.compile(rb"[A-Za-z0-9+/]{536}|[A-Za-z0-9_-]{536}"),
    "a JPEG": re.compile(rb"\xff\xd8\xff|\\xff\\xd8|/9j/[24]"),
    "a PNG": re.compile(rb"\x89PNG|\\x89PNG|iVBORw0KGgo"),
    "a WebP": re.compile(rb"RIFF.{4}WEBP|UklGR[A-Za-z0-9+/]{7}XRUJQ", re.DOTALL),
    "bytes as Python shows them": re.compile(rb"(?:\\(?:x[0-9a-f]{2}|[nrt])[^\\]{0,6}){32}"),
    "a database password": re.compile(rb"mongodb(?:\+srv)?://[^\s:/@]+:(?![*<.]|PASS)[^\s@]+@"),
}
_SHORTEST = 8
"""Shorter values, and those of few different characters, are found by chance."""


class Secrets:
    """Values that must stay private, by what they are, gathered while the tests use them."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, str] = {}

    def add(self, kind: str, value: object) -> None:
        """Keep a value; one that could be met by chance is not kept."""
        if isinstance(value, str) and len(value) >= _SHORTEST and len(set(value)) > 4:
            self._kinds[value.encode("utf-8", "surrogatepass")] = kind

    def add_url(self, url: object) -> None:
        """Keep the query of a URL, whole and each value, and its password."""
        if not isinstance(url, str) or "://" not in url:
            return
        try:
            parts = urlsplit(url)
            password = parts.password
        except ValueError:
            return
        self.add("the query of a media URL", parts.query)
        for _, value in parse_qsl(parts.query):
            self.add("the query of a media URL", value)
        self.add("the password of a URL", password)

    def add_authorization(self, header: str) -> None:
        """Keep the key in a request's header, or its signature."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() in ("bearer", "basic"):
            self.add("a key", rest)
        for signature in re.findall(r"Signature=([0-9a-f]{64})", rest):
            self.add("a signature", signature)

    def add_environment(self, env: dict[str, str]) -> None:
        """Keep what a process is given that nobody else may read."""
        for name, value in env.items():
            if name in ("API_KEY", "ENCODER_API_KEY", "CMS_HOOK_SECRET"):
                self.add(f"the value of {name}", value)
            elif name == "AWS_DIALECT_KEYS":
                for entry in value.split(","):
                    self.add("a secret access key", [*entry.split(":"), ""][1])
            elif name in ("CMS_HTTP_URL", "CMS_BASE_URL", "ENCODER_URL"):
                self.add_url(value)

    def add_body(self, path: str, body: object) -> None:
        """Keep the names of people and the queries of URLs in a request's JSON."""
        match body:
            case dict():
                if "/subjects" in path and body.get("name") != body.get("subject_id"):
                    self.add("the name of a person", body.get("name"))
                for value in body.values():
                    self.add_body(path, value)
            case list():
                for value in body:
                    self.add_body(path, value)
            case str():
                self.add_url(body)

    def found(self, text: bytes) -> Iterator[str]:
        """What is found in the text, by kind; never the value itself."""
        for kind, pattern in PATTERNS.items():
            if pattern.search(text):
                yield kind
        for value, kind in self._kinds.items():
            if value in text:
                yield kind
