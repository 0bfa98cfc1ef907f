"""Rows of an index: vectors by path and kind, filter values by path, and whose row each is.

A document has one row, or in the table of nested documents one for each of them. A written document
takes new rows at the end, so rows stand in the order of last write; rows left behind are dead until
there are enough of them to rewrite the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson import encode
from bson.objectid import ObjectId
from numpy.typing import NDArray

from localatlas.arrays import Growing, Mask
from localatlas.bsonvectors import Vector, document_vector
from localatlas.columns import Column, Nulls, evaluate
from localatlas.crew import Crew
from localatlas.definition import VectorField
from localatlas.filters import Expression
from localatlas.ranking import Snapshot
from localatlas.vectorfile import TableContents
from localatlas.vectors import VectorSet

# Dead rows that are carried along before the arrays are rewritten without them.
SPARE_ROWS = 1024
SPARE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class View:
    """What a search needs of a table, as it was at one moment; `wanted` None means every row."""

    vectors: Snapshot
    wanted: Mask | None
    ids: Sequence[Any]
    crew: Crew

    def best(
        self, query: Vector, count: int, rows: Mask | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return rows and scores of the `count` best, of those in the mask `rows` if given."""
        wanted = self.wanted if rows is None else rows
        if rows is not None and self.wanted is not None:
            wanted = rows & self.wanted
        return self.vectors.best(query, wanted, count, self.crew)


class Table:
    """Rows with vectors of `fields`, filter values at the paths `filters` and nulls at `nulls`.

    Not safe to use from two threads at once; a `View` is. `crew` shares in its searches.
    """

    def __init__(
        self,
        fields: Sequence[VectorField],
        filters: Sequence[str],
        nulls: Sequence[str],
        crew: Crew,
    ) -> None:
        self._crew = crew
        self._fields = tuple(fields)
        self._starts: dict[object, int] = {}
        # Of the few documents that have more than one row.
        self._counts: dict[object, int] = {}
        self._ids: list[Any] = []
        self._alive = Growing(np.bool_)
        self._dead = 0
        self._sets: dict[tuple[str, str], VectorSet] = {}
        self._columns = {path: Column(path) for path in filters}
        self._columns |= {path: Nulls(path) for path in nulls}

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, _id: object) -> bool:
        return id_key(_id) in self._starts

    @property
    def rows(self) -> int:
        """The number of rows, dead ones too."""
        return len(self._ids)

    @property
    def ids(self) -> Sequence[Any]:
        """The `_id` of each row; a list that is never shortened, only replaced."""
        return self._ids

    def vectors(self, part: Mapping[str, Any]) -> list[tuple[VectorField, Vector]]:
        """Return the vectors that a row for `part` would have."""
        return [
            (field, vector)
            for field in self._fields
            if (vector := document_vector(part, field)) is not None
        ]

    def add(
        self, _id: Any, part: Mapping[str, Any], vectors: Sequence[tuple[VectorField, Vector]]
    ) -> None:
        """Append a row of the document `_id`, right behind its other rows if it has any."""
        row, key = len(self._ids), id_key(_id)
        for field, vector in vectors:
            place = (field.path, vector.kind)
            if place not in self._sets:
                self._sets[place] = VectorSet(vector.kind, field.similarity, field.dimensions)
            self._sets[place].add(row, vector)
        for column in self._columns.values():
            column.add(row, part)
        if key in self._starts:
            self._counts[key] = self._counts.get(key, 1) + 1
        else:
            self._starts[key] = row
        self._ids.append(_id)
        self._alive.append(True)

    def remove(self, _id: object) -> None:
        """Forget every row of the document `_id`, if there is one."""
        key = id_key(_id)
        start = self._starts.pop(key, None)
        if start is None:
            return
        count = self._counts.pop(key, 1)
        # Their ids stay until the arrays are rewritten: a search under way may still read them.
        self._alive.view()[start : start + count] = False
        self._dead += count
        if self._dead > SPARE_ROWS + SPARE_SHARE * (len(self._ids) - self._dead):
            self.compact()

    def view(self, path: str, kind: str, expression: Expression | None) -> View:
        """Return what a search at `path` for vectors of `kind` needs, filtered by `expression`."""
        found = self._sets.get((path, kind))
        vectors = found.snapshot() if found else Snapshot((), "", 0)
        if expression is None:
            wanted = self._alive.view().copy() if self._dead else None
        else:
            wanted = evaluate(expression, self._columns, self.rows)
            if self._dead:
                wanted &= self._alive.view()
        return View(vectors, wanted, self._ids, self._crew)

    def matching(self, expression: Expression) -> Mask:
        """Return for each row whether it is alive and `expression` holds there."""
        mask = evaluate(expression, self._columns, self.rows)
        mask &= self._alive.view()
        return mask

    def compact(self) -> None:
        """Rewrite the arrays without the dead rows."""
        if not self._dead:
            return
        alive = self._alive.view()
        new_rows: NDArray[np.int32] = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
        self._sets = {place: held.compact(new_rows) for place, held in self._sets.items()}
        self._columns = {path: column.compact(new_rows) for path, column in self._columns.items()}
        # A new list: searches under way go on reading the old one.
        self._ids = [_id for _id, kept in zip(self._ids, alive.tolist(), strict=True) if kept]
        self._number()

    def freeze(self) -> TableContents:
        """Return everything in the table, to be kept in a file, without dead rows."""
        self.compact()
        return TableContents(
            list(self._ids),
            {place: held.snapshot().blocks for place, held in self._sets.items()},
            {path: column.freeze() for path, column in self._columns.items()},
        )

    def thaw(self, contents: TableContents) -> None:
        """Take up what `freeze` gave, in place of what is here."""
        for (path, kind), blocks in contents.blocks.items():
            field = next(field for field in self._fields if field.path == path)
            held = VectorSet(kind, field.similarity, field.dimensions)
            for block in blocks:
                held.extend(block)
            self._sets[path, kind] = held
        for path, frozen in contents.columns.items():
            self._columns[path] = type(self._columns[path]).thaw(path, frozen)
        self._ids = contents.ids
        self._number()

    def _number(self) -> None:
        self._starts, self._counts = {}, {}
        for row, _id in enumerate(self._ids):
            key = id_key(_id)
            if self._starts.setdefault(key, row) != row:
                self._counts[key] = self._counts.get(key, 1) + 1
        self._alive = Growing(np.bool_, np.ones(len(self._ids), np.bool_))
        self._dead = 0


def id_key(_id: Any) -> object:
    """Return a hashable that is equal for equal `_id`s: 1, 1.0 and a long 1 are one."""
    if isinstance(_id, str | ObjectId):
        return _id
    if isinstance(_id, int | float) and not isinstance(_id, bool) and _id == _id:
        return int(_id) if isinstance(_id, int) else _id
    return encode({"": _id})
