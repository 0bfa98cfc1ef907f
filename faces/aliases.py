"""Short names for long texts, where a protocol leaves no room for the text itself."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence

from pymongo import UpdateOne

from faces.database import ALIASES, BULK, Db, translate


class Aliases:
    """Remembers texts by their SHA-256: a collection's as long as it, those of none for 30 days."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def keep(self, collection: str, texts: Sequence[str]) -> Mapping[str, str]:
        """The hash (hex) of each text, which `find` turns back. `collection` "" is none."""
        fields = {"collection": collection} if collection else {"at": dt.datetime.now(dt.UTC)}
        digests = {text: hashlib.sha256(text.encode()).hexdigest() for text in texts}
        writes = [
            UpdateOne(
                {"_id": f"{collection}/{digest}"},
                {"$set": {**fields, "text": text}},
                upsert=True,
            )
            for text, digest in digests.items()
        ]
        with translate():
            for start in range(0, len(writes), BULK):
                self._db[ALIASES].bulk_write(writes[start : start + BULK], ordered=False)
        return digests

    def find(self, collection: str, digest: str) -> str | None:
        """The text of a hash; None when it was not kept."""
        with translate():
            row = self._db[ALIASES].find_one({"_id": f"{collection}/{digest}"})
        return None if row is None else str(row["text"])
