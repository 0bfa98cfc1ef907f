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

from faces.documents import (
    MAX_METADATA,
    MAX_METADATA_BYTES,
    MAX_STRING,
    METADATA_NAME,
    metadata_size,
)
from faces.settings import Settings
from indexer.sources.base import Entry, Listed, Unusable, media_id_of

_MAX_URL, _MAX_TITLE, _MAX_VERSION = 8192, 1000, 256
_NO = frozenset(("", "0", "false", "no", "null", "none"))
_NO_DATE = "0000-00-00"
"""What MySQL stores for a date that is not there."""
_EXACT = 2**53
"""Below it a double holds whole numbers exactly."""


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
        found = value_at(record, self.fields.id)
        key = key_of(found)
        if key is None:
            known_by = record if found is None else found
            return _nameless(known_by, f"Field {self.fields.id} holds no usable id.")
        media_id = media_id_of(key)
        if media_id is None:
            return _nameless(found, f"Field {self.fields.id} cannot be a media id.")
        if not _false(value_at(record, self.fields.deleted)):
            return None
        mime = value_at(record, self.fields.mime)
        if isinstance(mime, str) and mime and not mime.lower().startswith("image/"):
            return None
        version = _version(value_at(record, self.fields.updated))
        hidden = self._hidden(value_at(record, self.fields.status))
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
                hidden=hidden,
            )
        except BadRecord as error:
            if hidden:
                # Whatever else is wrong with it: it is not published, so its faces vanish.
                return Entry(key, media_id, version, hidden=True)
            # Any change to the record is worth another look.
            seen = _digest(json.dumps(record, default=str, sort_keys=True)[:100_000])
            return Unusable(key, media_id, "bad_record", str(error), seen)

    def _hidden(self, status: object) -> bool:
        """Whether a status is none of the visible ones; true and 1.0 read `true` and `1`."""
        if isinstance(status, bool):
            return bool(self.visible) and str(status).lower() not in map(str.lower, self.visible)
        if isinstance(status, float) and status.is_integer():
            status = int(status)
        return bool(self.visible) and str(status) not in self.visible

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
        if not url.raw_host:
            # As text its path would be read as the host, brackets and all.
            raise BadRecord(f"Field {name} is a URL without a host.")
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
        left = MAX_METADATA_BYTES
        for name, one in value.items():
            if not isinstance(name, str) or not METADATA_NAME.fullmatch(name):
                continue
            field = _scalar(one)
            if field is None or (size := metadata_size({name: field})) > left:
                continue
            left -= size
            kept[name] = field
            if len(kept) == MAX_METADATA:
                break
        return kept


def _scalar(value: object) -> str | float | bool | None:
    """The value as metadata is stored; None for what cannot be."""
    if isinstance(value, str):
        return _storable(value)[:MAX_STRING]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(number := _number(value)):
        return number
    return None


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = record
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def key_of(value: object) -> str | None:
    """An id as text. An ObjectId is its 24 hex digits, 7.0 is 7; anything composed is no id."""
    if isinstance(value, bool) or value is None:
        return None
    if type(value) is str:  # code of a database is a kind of text, and cannot be looked up
        return value or None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else None
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if type(value).__name__ in ("ObjectId", "UUID", "Int64") and text:
        return text
    return None


def _false(value: object) -> bool:
    """Whether a mark of deletion is not set, as databases and languages variously write that."""
    if isinstance(value, str):
        return value.strip().lower() in _NO or value.startswith(_NO_DATE)
    return not value


def _version(value: object) -> str | None:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, str):
        plain = len(value) <= _MAX_VERSION and value == _storable(value)
        return (value if plain else _digest(value)) or None
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


def _nameless(known_by: object, detail: str) -> Unusable:
    """A record without a usable id, told from others by its unusable one, else by its content."""
    key = "record-" + _digest(repr(known_by)[:10_000])
    return Unusable(key, key, "bad_record", detail, key)
