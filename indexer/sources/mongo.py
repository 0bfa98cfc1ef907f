"""Pictures that the CMS keeps as documents in its own MongoDB collection. Only ever reads."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bson import Decimal128, ObjectId, Timestamp, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from faces.errors import ConfigError
from indexer.sources.base import Body, Entry, Listed, Listing, SourcePaused, SourceUnreadable
from indexer.sources.media import MediaReader
from indexer.sources.records import Reader

PAGE = 200
_REFUSED = (13, 18, 8000)  # Unauthorized, AuthenticationFailed, AtlasError
_START = object()
# The types that an `_id` may have, in the order in which the server sorts them.
_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("number", (int, float, Decimal128)),
    ("string", (str,)),
    ("object", (dict,)),
    ("binData", (bytes, uuid.UUID)),
    ("objectId", (ObjectId,)),
    ("bool", (bool,)),
    ("date", (dt.datetime, DatetimeMS)),
    ("timestamp", (Timestamp,)),
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CURSOR = json_util.RELAXED_JSON_OPTIONS.with_options(
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
T = TypeVar("T")


class MongoSource:
    """The documents of `records` that match `query` (MongoDB's extended JSON, from CMS_QUERY)."""

    kind = "mongo"

    def __init__(
        self,
        records: Collection[Any],
        reader: Reader,
        media: MediaReader,
        *,
        query: str | None = None,
    ) -> None:
        self.namespace = records.full_name
        self._records = records
        self._reader = reader
        self._media = media
        self._query = _parse(query)
        self._projection = dict.fromkeys(_outer(reader.fields.names()), 1) | {"_id": 1}

    def close(self) -> None:
        """Close the connections to the media servers and to the CMS's database."""
        self._media.close()
        self._records.database.client.close()

    def total(self) -> int | None:
        """The collection's own estimate, or a count where a query narrows it."""
        if self._query:
            return self._guard(lambda: self._records.count_documents(self._query))
        return self._guard(self._records.estimated_document_count)

    def pages(self, cursor: str | None) -> Iterator[Listing]:
        """All documents in the order of their `_id`, after `cursor`."""
        after = _START if cursor is None else json_util.loads(cursor, json_options=_CURSOR)["_id"]
        while True:
            found = self._after(after)
            if not found:
                yield Listing((), None)
                return
            after = found[-1]["_id"]
            yield Listing(self._read(found), json_util.dumps({"_id": after}, json_options=_CURSOR))

    def _after(self, after: Any) -> list[Any]:
        """The next page. Ids of several types are listed type by type, as `_id` sorts them."""
        if after is _START:
            return self._find(self._query)
        found = self._find({"$and": [self._query, {"_id": {"$gt": after}}]})
        # `$gt` compares within one type only; what sorts behind it is asked for by name.
        if not found and (later := _later_types(after)):
            found = self._find({"$and": [self._query, {"_id": {"$type": later}}]})
        return found

    def absent(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that no matching document has any more."""
        return set(keys) - set(self.lookup(keys))

    def lookup(self, keys: Sequence[str]) -> dict[str, Listed]:
        """The entries with these keys as they are now."""
        found: dict[str, Listed] = {}
        for start in range(0, len(keys), PAGE // 2):
            ids = [form for key in keys[start : start + PAGE // 2] for form in _forms(key)]
            query = {"$and": [self._query, {self._reader.fields.id: {"$in": ids}}]}
            found |= {entry.key: entry for entry in self._read(self._find(query))}
        return found

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        """The picture behind the entry's URL."""
        return self._media.read(entry, max_bytes=max_bytes, etag=etag, modified=modified)

    def _find(self, query: Mapping[str, Any]) -> list[Any]:
        def ask() -> list[Any]:
            return list(self._records.find(query, self._projection).sort("_id", 1).limit(PAGE))

        return self._guard(ask)

    def _read(self, documents: Sequence[Any]) -> tuple[Listed, ...]:
        return tuple(e for e in map(self._reader.read, documents) if e is not None)

    def _guard(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except OperationFailure as error:
            if error.code in _REFUSED:
                raise SourcePaused(
                    "The CMS's database refuses access: check user and password, and that the user"
                    " has `find` on the collection (and `changeStream` for INDEX_LIVE). Nothing was"
                    " deleted."
                ) from error
            raise SourceUnreadable(
                f"The CMS's database refused the listing (code {error.code}); check CMS_QUERY."
                " Nothing was deleted."
            ) from error
        except (PyMongoError, BSONError) as error:
            raise SourceUnreadable(
                "The CMS's database could not be read: check that it runs, CMS_MONGODB_URI and its"
                " network access list. Nothing was deleted."
            ) from error


def _parse(query: str | None) -> dict[str, Any]:
    if not query:
        return {}
    try:
        parsed = json_util.loads(query)
    except (ValueError, TypeError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ConfigError("CMS_QUERY: must be a JSON object, a MongoDB filter")
    return parsed


def _later_types(value: Any) -> list[str]:
    """The types that sort behind that of `value`."""
    names = [name for name, _ in _TYPES]
    if isinstance(value, bool):
        return names[names.index("bool") + 1 :]
    for position, (_, types) in enumerate(_TYPES):
        if isinstance(value, types):
            return names[position + 1 :]
    return []


def _outer(names: Sequence[str]) -> list[str]:
    """The names without those that lie within another: a projection may not hold both."""
    return [n for n in names if not any(n != o and n.startswith(o + ".") for o in names)]


def _forms(key: str) -> list[Any]:
    """What a key may be in the database: text, a number, an ObjectId or a UUID."""
    forms: list[Any] = [key]
    if re.fullmatch(r"-?[0-9]{1,19}", key) and -(2**63) <= int(key) < 2**63:
        forms.append(int(key))
    if ObjectId.is_valid(key):
        forms.append(ObjectId(key))
    if _UUID.fullmatch(key):
        forms.append(uuid.UUID(key))
    return forms
