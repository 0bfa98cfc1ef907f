"""One vector search index in memory: documents go in, `$vectorSearch` answers come out.

Contract
- `VectorIndex(definition)` is empty. `put(document)` takes a whole document (decoded BSON:
  mappings, lists, bson types; datetimes naive, aware or DatetimeMS), replaces what was there for
  its `_id`, and forgets the `_id` when no vector field finds a vector in it. `remove(_id)` forgets
  it. Neither ever raises for what a document holds. `len(index)` counts the documents that have a
  vector.
- `search(query)` checks the query against the definition (CommandError, in the engine's order),
  then returns up to `limit` pairs `(_id, score)`, best first, equal scores in the order of last
  write. Exact always. The state of the index (building, failed) is the caller's business.
- `save(path, about)` and `load(path, definition)` keep the index in a compact file beside the
  caller's own `about` document (resume token and what else it wants to find again).
- Any thread may call anything: writers exclude each other, a search holds the lock only while it
  takes its snapshot and evaluates the filter (about a millisecond), not while it computes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bson import encode
from numpy.typing import NDArray

from localatlas.bsonvectors import Vector, document_vector
from localatlas.columns import Column, Growing, Mask, evaluate
from localatlas.definition import Definition
from localatlas.errors import QueryError, unsupported
from localatlas.filters import Expression, needed_paths
from localatlas.stage import VectorQuery
from localatlas.vectorfile import Contents, read_vector_file, write_vector_file
from localatlas.vectors import Snapshot, VectorSet

# Rows of deleted documents that are carried along before the arrays are rewritten without them.
SPARE_ROWS = 1024
SPARE_SHARE = 0.2


class VectorIndex:
    """The vectors and filter values of one index, by row; a written document takes a new row."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._lock = threading.RLock()
        self._rows: dict[object, int] = {}
        self._ids: list[Any] = []
        self._alive = Growing(np.bool_)
        self._sets: dict[tuple[str, str], VectorSet] = {}
        self._columns = {path: Column(path) for path in definition.filters}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, _id: object) -> bool:
        return id_key(_id) in self._rows

    def put(self, document: Mapping[str, Any]) -> None:
        """Index `document` in place of what was there for its `_id`."""
        vectors = [
            (field, vector)
            for field in self.definition.vectors
            if (vector := document_vector(document, field)) is not None
        ]
        with self._lock:
            self.remove(document["_id"])
            if not vectors:
                return
            row = len(self._ids)
            for field, vector in vectors:
                key = (field.path, vector.kind)
                if key not in self._sets:
                    self._sets[key] = VectorSet(vector.kind, field.similarity, field.dimensions)
                self._sets[key].add(row, vector)
            for column in self._columns.values():
                column.add(row, document)
            self._rows[id_key(document["_id"])] = row
            self._ids.append(document["_id"])
            self._alive.append(True)

    def remove(self, _id: object) -> None:
        """Forget the document with this `_id`, if it is here."""
        with self._lock:
            row = self._rows.pop(id_key(_id), None)
            if row is None:
                return
            self._alive.view()[row] = False
            self._ids[row] = None
            if len(self._ids) - len(self) > SPARE_ROWS + SPARE_SHARE * len(self):
                self._compact()

    def search(self, query: VectorQuery) -> list[tuple[Any, float]]:
        """Return `(_id, score)` of the best documents, or raise CommandError."""
        vector = self.check(query)
        with self._lock:
            found = self._sets.get((query.path, vector.kind))
            snapshot = found.snapshot() if found else Snapshot((), "", 0)
            ids = self._ids
            wanted = self._wanted(query.filter)
            parents = None
            if query.parent_filter is not None:
                parents = evaluate(query.parent_filter, self._columns, len(ids))
        if parents is not None and query.candidates is None:
            wanted = parents if wanted is None else wanted & parents
        # A parent filter thins out the candidates of an approximate search, it does not choose
        # them.
        count = query.candidates if parents is not None and query.candidates else query.limit
        rows, scores = snapshot.best(vector, wanted, count)
        if parents is not None and query.candidates is not None:
            kept = parents[rows]
            rows, scores = rows[kept], scores[kept]
        pairs = zip(rows[: query.limit].tolist(), scores[: query.limit].tolist(), strict=True)
        return [(ids[row], score) for row, score in pairs]

    def check(self, query: VectorQuery) -> Vector:
        """Return the query's vector if the index can answer the query, or raise CommandError."""
        if query.stored_source:
            if self.definition.stored_source is None:
                raise QueryError("storedSource is not configured for this index.")
            raise unsupported("returnStoredSource")
        if query.vector is None:
            raise QueryError("queryVector must be present")
        if query.nested:
            raise QueryError(
                '"nestedOptions" requires a vector path within the index\'s nested root, but '
                f"'{query.path}' is outside it. Specify a path under the index's \"nestedRoot\" "
                f"field, or remove \"nestedOptions\" to query '{query.path}' as a standard vector "
                "field."
            )
        field = self.definition.vector(query.path)
        if field is None:
            raise QueryError(f"{query.path} is not indexed as vector")
        if query.vector.dimensions != field.dimensions:
            raise QueryError(
                f"vector field is indexed with {field.dimensions} dimensions but queried with "
                f"{query.vector.dimensions}"
            )
        for expression in (query.filter, query.parent_filter):
            if expression is not None:
                self._check_paths(expression)
        if field.similarity == "cosine" and query.vector.is_zero:
            raise QueryError("Cosine similarity cannot be calculated against a zero vector.")
        if field.similarity != "euclidean" and query.vector.kind == "packed_bit":
            raise QueryError(
                "Binary vectors can only be used with fields indexed with Euclidean similarity but "
                f"indexed similarity is {field.similarity}"
            )
        if query.traced:
            raise QueryError(
                "Query must be run in explain mode, because 'explainOptions' are present."
            )
        return query.vector

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write the index to `path`, whole or not at all, with the caller's `about` document."""
        with self._lock:
            if len(self._ids) > len(self):
                self._compact()
            contents = Contents(
                list(self._ids),
                {key: found.snapshot().blocks for key, found in self._sets.items()},
                {path: column.freeze() for path, column in self._columns.items()},
            )
        write_vector_file(path, self.definition.normalised(), about, contents)

    @classmethod
    def load(cls, path: Path, definition: Definition) -> tuple[VectorIndex, dict[str, Any]]:
        """Return the index saved at `path` and its `about`.

        Raises FileNotFoundError without a file, and StaleFileError when it is damaged or of another
        definition: the caller then builds the index anew from the collection.
        """
        about, contents = read_vector_file(path, definition.normalised())
        index = cls(definition)
        index._ids = contents.ids
        index._rows = {id_key(_id): row for row, _id in enumerate(contents.ids)}
        index._alive = Growing(np.bool_, np.ones(len(contents.ids), np.bool_))
        for (field_path, kind), blocks in contents.blocks.items():
            field = definition.vector(field_path)
            assert field is not None  # noqa: S101 - the definition was compared
            index._sets[field_path, kind] = VectorSet(kind, field.similarity, field.dimensions)
            for block in blocks:
                index._sets[field_path, kind].extend(block)
        for column_path, frozen in contents.columns.items():
            index._columns[column_path] = Column.thaw(column_path, frozen)
        return index, about

    def _wanted(self, expression: Expression | None) -> Mask | None:
        rows = len(self._ids)
        if expression is None:
            return self._alive.view().copy() if rows > len(self) else None
        mask = evaluate(expression, self._columns, rows)
        return mask & self._alive.view() if rows > len(self) else mask

    def _check_paths(self, expression: Expression) -> None:
        for path in needed_paths(expression):
            if path not in self._columns:
                raise QueryError(f"Path '{path}' needs to be indexed as filter")

    def _compact(self) -> None:
        alive = self._alive.view()
        new_rows: NDArray[np.int32] = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
        self._sets = {key: found.compact(new_rows) for key, found in self._sets.items()}
        self._columns = {path: column.compact(new_rows) for path, column in self._columns.items()}
        self._ids = [_id for _id, kept in zip(self._ids, alive.tolist(), strict=True) if kept]
        self._rows = {id_key(_id): row for row, _id in enumerate(self._ids)}
        self._alive = Growing(np.bool_, np.ones(len(self._ids), np.bool_))


def id_key(_id: Any) -> object:
    """Return a hashable that is equal for equal `_id`s: 1, 1.0 and a long 1 are one."""
    if isinstance(_id, str) or type(_id).__name__ == "ObjectId":
        return _id
    if isinstance(_id, int | float) and not isinstance(_id, bool) and _id == _id:
        return int(_id) if isinstance(_id, int) else _id
    return encode({"": _id})
