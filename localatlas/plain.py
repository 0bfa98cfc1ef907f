"""Searches whose rows the front puts in order itself, so that the backend only reads them. Pure.

Most searches are followed by nothing, by a projection or by the score as a field, and perhaps by
unions. The backend then needs neither ranks nor scores, which cost it as much as the documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localatlas.rewrite import RANK, Document, Hit, Pipeline, is_meta
from localatlas.table import id_key

# How many documents a first batch has where nothing is said: 101, as every server has it.
_BATCH = 101


@dataclass(frozen=True, slots=True)
class Plain:
    """`pipeline` reads the documents of `hits` in any order; unions follow where `marked`.

    `scores` are the fields that take the score; `without_id` leaves out `_id` at last.
    """

    hits: Sequence[Hit]
    pipeline: Pipeline
    scores: tuple[str, ...] = ()
    without_id: bool = False
    marked: bool = False

    def finish(self, reply: Document) -> Document | None:
        """The client's reply, of the backend's to `pipeline`.

        None where that does not hold all rows, or others: then the backend has to do it all.
        """
        if not reply.get("ok"):
            return reply
        cursor = reply["cursor"]
        batch: list[Document] = cursor["firstBatch"]
        count = len(batch)
        if self.marked:
            count = next((at for at, row in enumerate(batch) if RANK not in row), count)
        places = {id_key(identity): at for at, (identity, _) in enumerate(self.hits)}
        ranked = [(places.get(id_key(row["_id"]), -1), row) for row in batch[:count]]
        if (cursor["id"] and count < len(places)) or any(place < 0 for place, _ in ranked):
            return None
        ranked.sort(key=lambda pair: pair[0])
        rows = [self._row(place, row) for place, row in ranked]
        return {**reply, "cursor": {**cursor, "firstBatch": rows + batch[count:]}}

    def _row(self, place: int, row: Document) -> Document:
        row.pop(RANK, None)
        for name in self.scores:
            row[name] = self.hits[place][1]
        if self.without_id:
            del row["_id"]
        return row


def plain(hits: Sequence[Hit], rest: Pipeline, body: Mapping[str, Any]) -> Plain | None:
    """How to answer `body`, a search with these hits and then the stages `rest`, if it is simple.

    None where its rows may not come whole in the first batch, or where a stage does more.
    """
    cursor = body.get("cursor")
    if (
        not hits
        or "collation" in body
        or not isinstance(cursor, dict)
        or not cursor.keys() <= _ROOM
    ):
        return None
    room = cursor.get("batchSize", _BATCH)
    if not isinstance(room, int) or len(hits) > room:
        return None
    found: Document = {"$match": {"_id": {"$in": [identity for identity, _ in hits]}}}
    if not rest:
        return Plain(hits, [found])
    first, unions = rest[0], rest[1:]
    if len(first) != 1 or any(list(stage) != ["$unionWith"] for stage in unions):
        return None
    name, spec = next(iter(first.items()))
    if not isinstance(spec, dict) or not spec:
        return None
    if name == "$project":
        return _projected(hits, found, spec, unions)
    if name in ("$set", "$addFields") and not unions and all(map(_is_score, spec, spec.values())):
        return Plain(hits, [found], tuple(spec))
    return None


_ROOM = {"batchSize"}


def _projected(
    hits: Sequence[Hit], found: Document, spec: Document, unions: Pipeline
) -> Plain | None:
    """For a projection of whole fields and of scores."""
    if any(key.startswith("_id.") for key in spec):
        return None  # a part of `_id` cannot stand beside the whole, by which rows are known
    scores = tuple(key for key, value in spec.items() if is_meta(value))
    fields = {key: value for key, value in spec.items() if key not in scores}
    with_id = fields.pop("_id", True)
    if not all(map(_is_included, fields.values())) or not isinstance(with_id, bool | int | float):
        return None
    if not with_id and not fields and not scores:
        return None  # it excludes `_id`, and includes all others
    if not all(_is_score(key, spec[key]) for key in scores) or any(
        key.startswith(f"{score}.") for key in fields for score in scores
    ):
        return None
    mark = {RANK: {"$literal": True}} if unions else {}
    stages = [found, {"$project": {"_id": 1, **fields, **mark}}, *unions]
    return Plain(hits, stages, scores, without_id=not with_id, marked=bool(unions))


def _is_score(key: str, value: Any) -> bool:
    return is_meta(value) and bool(key) and "." not in key and key[0] != "$" and key != "_id"


def _is_included(value: Any) -> bool:
    return isinstance(value, bool | int | float) and bool(value)
