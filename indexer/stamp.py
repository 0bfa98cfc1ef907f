"""The one line that remembers what an item looked like when it was last indexed.

It is stored with the item and compared on the next run, so that an unchanged item costs neither a
request nor a decoded picture.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from faces.types import MediaInfo
from indexer.sources.base import Body, Entry

_MAX_VALIDATOR = 200


@dataclass(frozen=True, slots=True)
class Stamp:
    """`version` is the source's word for the bytes, `info` a digest of title, URL and the like.

    `pipeline` is the version of the code that looked at them; `etag` and `modified` are the
    validators that the media server gave with them.
    """

    version: str | None
    info: str
    pipeline: str
    etag: str | None = None
    modified: str | None = None

    def encode(self) -> str:
        """The stamp as one line of JSON."""
        parts = [self.version, self.info, self.pipeline, self.etag, self.modified]
        while parts[-1] is None:
            parts.pop()
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    def fetched(self, body: Body) -> Stamp:
        """The stamp with the validators of `body`; over-long ones are forgotten."""
        return replace(self, etag=_short(body.etag), modified=_short(body.modified))


def decode(text: str | None) -> Stamp | None:
    """The stamp that `text` holds; None when it holds none, which makes the item look changed."""
    if not text:
        return None
    try:
        parts = json.loads(text)
        version, info, pipeline, etag, modified = (*parts, None, None)[:5]
    except (ValueError, TypeError):
        return None
    if not isinstance(info, str) or not isinstance(pipeline, str):
        return None
    return Stamp(version, info, pipeline, etag, modified)


def stamp_of(entry: Entry, pipeline: str) -> Stamp:
    """What `entry` looks like now to this version of the pipeline, before anything is fetched."""
    facts = [
        entry.media_id,
        entry.url,
        entry.title,
        entry.taken_at.isoformat() if entry.taken_at else None,
        sorted(entry.metadata.items()),
    ]
    digest = hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode("ascii")).hexdigest()[:16]
    version = entry.version
    if version is not None and len(version) > _MAX_VALIDATOR:
        version = hashlib.sha256(version.encode("utf-8", "surrogatepass")).hexdigest()
    return Stamp(version, digest, pipeline)


def info_of(entry: Entry, stamp: Stamp) -> MediaInfo:
    """What is stored of `entry` besides its pixels."""
    return MediaInfo(
        url=entry.url,
        title=entry.title,
        taken_at=entry.taken_at,
        metadata=entry.metadata,
        etag=stamp.encode(),
        hidden=entry.hidden,
    )


def _short(validator: str | None) -> str | None:
    return validator if validator is not None and len(validator) <= _MAX_VALIDATOR else None
