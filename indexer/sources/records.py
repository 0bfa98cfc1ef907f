"""A CMS's own record, as found in its collection or its JSON listing, read into an entry.

Nothing about a record is taken for granted: a field of the wrong shape makes the record `Unusable`
with a sentence that names the field, never its content.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from faces.documents import MAX_METADATA, MAX_STRING, METADATA_NAME
from faces.settings import Settings
from indexer.sources.base import Entry, Listed, Unusable, media_id_of

_MAX_URL, _MAX_TITLE = 8192, 1000
_FALSE = (None, False, 0, "", "0", "false", "False", "no")


@dataclass(frozen=True, slots=True)
class Fields:
    """Where in a record each fact is; a dot leads into an inner document."""

    id: str
    url: str
    updated: str
    deleted: str
    status: str
    mime: str
    title: str
    taken_at: str
    metadata: str

    @classmethod
    def of(cls, settings: Settings) -> Fields:
        """The fields that `CMS_FIELD_*` name."""
        return cls(
            settings.cms_field_id,
            settings.cms_field_url,
            settings.cms_field_updated,
            settings.cms_field_deleted,
            settings.cms_field_status,
            settings.cms_field_mime,
            settings.cms_field_title,
            settings.cms_field_taken_at,
            settings.cms_field_metadata,
        )

    def names(self) -> list[str]:
        """All of them, for a projection."""
        return [str(getattr(self, name)) for name in self.__slots__]


class BadRecord(Exception):
    """A record has the wrong shape; the message names the field."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads records. `base` is what relative URLs are joined to; no `visible` means any status."""

    fields: Fields
    base: str | None = None
    visible: frozenset[str] = frozenset()

    def read(self, record: object) -> Listed | None:
        """The entry, what is wrong with it, or None for what is deleted or no picture."""
        if not isinstance(record, Mapping):
            return _nameless(record, "The record is not an object.")
        key = key_of(value_at(record, self.fields.id))
        if key is None:
            return _nameless(record, f"Field {self.fields.id} holds no usable id.")
        media_id = media_id_of(key)
        if media_id is None:
            return _nameless(record, f"Field {self.fields.id} cannot be a media id.")
        if not _false(value_at(record, self.fields.deleted)):
            return None
        mime = value_at(record, self.fields.mime)
        if isinstance(mime, str) and mime and not mime.lower().startswith("image/"):
            return None
        version = _version(value_at(record, self.fields.updated))
        try:
            url = self._url(value_at(record, self.fields.url))
            return Entry(
                key,
                media_id,
                version,
                url,
                self._title(value_at(record, self.fields.title)),
                _moment(value_at(record, self.fields.taken_at)),
                self._metadata(value_at(record, self.fields.metadata)),
                hidden=bool(self.visible)
                and str(value_at(record, self.fields.status)) not in self.visible,
            )
        except BadRecord as error:
            # Any change to the record is worth another look.
            seen = _digest(json.dumps(record, default=str, sort_keys=True)[:100_000])
            return Unusable(key, media_id, "bad_record", str(error), seen)

    def _url(self, value: object) -> str:
        name = self.fields.url
        if not isinstance(value, str) or not value.strip():
            raise BadRecord(f"Field {name} is not a URL.")
        if len(value) > _MAX_URL:
            raise BadRecord(f"Field {name} is longer than {_MAX_URL} characters.")
        try:
            url = httpx2.URL(value)
            if url.is_relative_url and self.base:
                url = httpx2.URL(self.base).join(url)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            raise BadRecord(f"Field {name} is not a URL.") from None
        if url.scheme not in ("http", "https"):
            raise BadRecord(
                f"Field {name} is not an http or https URL"
                + (
                    "; relative ones need CMS_BASE_URL."
                    if url.is_relative_url and not self.base
                    else "."
                )
            )
        return str(url)

    def _title(self, value: object) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadRecord(f"Field {self.fields.title} is not text.")
        return _storable(value)[:_MAX_TITLE] or None

    def _metadata(self, value: object) -> dict[str, str | float | bool]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise BadRecord(f"Field {self.fields.metadata} is not an object.")
        kept: dict[str, str | float | bool] = {}
        for name, one in value.items():
            if not isinstance(name, str) or not METADATA_NAME.fullmatch(name):
                continue
            if isinstance(one, str):
                kept[name] = _storable(one)[:MAX_STRING]
            elif isinstance(one, bool):
                kept[name] = one
            elif isinstance(one, int | float) and math.isfinite(number := _number(one)):
                kept[name] = number
            if len(kept) == MAX_METADATA:
                break
        return kept


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = record
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def key_of(value: object) -> str | None:
    """An id as text. An ObjectId is its 24 hex digits; anything composed is no id."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return value or None
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if type(value).__name__ in ("ObjectId", "UUID", "Int64") and text:
        return text
    return None


def _false(value: object) -> bool:
    return isinstance(value, str | int | bool | None) and value in _FALSE


def _version(value: object) -> str | None:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return None if value is None else _digest(str(value))


def _moment(value: object) -> dt.datetime | None:
    """A point in time, UTC where the record names no zone; what is none is left out."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, dt.datetime):
        return None
    try:
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return aware.astimezone(dt.UTC)
    except OverflowError:
        return None


def _number(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _nameless(record: object, detail: str) -> Unusable:
    key = "record-" + _digest(repr(record)[:10_000])
    return Unusable(key, key, "bad_record", detail, key)
