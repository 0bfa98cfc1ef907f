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
  takes its view and evaluates the filter (about a millisecond), not while it computes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localatlas.arrays import Mask
from localatlas.bsonvectors import Vector
from localatlas.columns import reach
from localatlas.crew import Crew
from localatlas.definition import Definition, VectorField
from localatlas.errors import QueryError, unsupported
from localatlas.filters import Expression, needed_paths
from localatlas.stage import VectorQuery
from localatlas.table import Table, View, id_key
from localatlas.vectorfile import read_vector_file, write_vector_file

Hit = tuple[Any, float]
Part = tuple[Mapping[str, Any], list[tuple[VectorField, Vector]]]


class VectorIndex:
    """The documents of one index.

    Where the definition has a nested root, every sub-document there has a row in a table of its
    own, searched in place of the documents and joined to them afterwards.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._lock = threading.RLock()
        fields, filters, nulls = definition.vectors, definition.filters, definition.nulls
        crew = Crew()
        self._documents = Table(
            [field for field in fields if not definition.is_nested(field.path)],
            [path for path in filters if not definition.is_nested(path)],
            [path for path in nulls if not definition.is_nested(path)],
            crew,
        )
        self._parts: Table | None = None
        if definition.nested_root is not None:
            self._parts = Table(
                [field for field in fields if definition.is_nested(field.path)],
                [path for path in filters if definition.is_nested(path)],
                [path for path in nulls if definition.is_nested(path)],
                crew,
            )

    def __len__(self) -> int:
        return len(self._documents)

    def __contains__(self, _id: object) -> bool:
        return _id in self._documents

    @property
    def rows(self) -> int:
        """How many documents there are to look at, nested ones and old versions too."""
        return self._documents.rows + (0 if self._parts is None else self._parts.rows)

    def put(self, document: Mapping[str, Any]) -> None:
        """Index `document` in place of what was there for its `_id`."""
        _id = document["_id"]
        vectors = self._documents.vectors(document)
        parts = self._vectors_of_parts(document)
        with self._lock:
            self.remove(_id)
            if vectors or parts:
                self._documents.add(_id, document, vectors)
            if self._parts is not None:
                for part, found in parts:
                    self._parts.add(_id, part, found)

    def remove(self, _id: object) -> None:
        """Forget the document with this `_id`, if it is here."""
        with self._lock:
            self._documents.remove(_id)
            if self._parts is not None:
                self._parts.remove(_id)

    def search(self, query: VectorQuery) -> list[Hit]:
        """Return `(_id, score)` of the best documents, or raise CommandError."""
        vector = self.check(query)
        nested = self._parts if self.definition.is_nested(query.path) else None
        with self._lock:
            view = (nested or self._documents).view(query.path, vector.kind, query.filter)
            parents = None
            if query.parent_filter is not None:
                parents = self._documents.matching(query.parent_filter)
            ids = self._documents.ids
        if nested is None:
            return _flat(query, vector, view, parents)
        rows = None
        if parents is not None:
            kept = {id_key(ids[row]) for row in np.flatnonzero(parents).tolist()}
            rows = np.fromiter((id_key(one) in kept for one in view.ids), np.bool_, len(view.ids))
        return _joined(query, vector, view, rows)

    def check(self, query: VectorQuery) -> Vector:
        """Return the query's vector if the index can answer the query, or raise CommandError."""
        if query.stored_source:
            if self.definition.stored_source is None:
                raise QueryError("storedSource is not configured for this index.")
            raise unsupported("returnStoredSource")
        if query.vector is None:
            raise QueryError("queryVector must be present")
        if query.score_mode is not None and not self.definition.is_nested(query.path):
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
            contents = {"documents": self._documents.freeze()}
            if self._parts is not None:
                contents["parts"] = self._parts.freeze()
        write_vector_file(path, self.definition.normalised(), about, contents)

    @classmethod
    def load(cls, path: Path, definition: Definition) -> tuple[VectorIndex, dict[str, Any]]:
        """Return the index saved at `path` and its `about`.

        Raises FileNotFoundError without a file, and StaleFileError when it is damaged or of another
        definition: the caller then builds the index anew from the collection.
        """
        about, contents = read_vector_file(path, definition.normalised())
        index = cls(definition)
        index._documents.thaw(contents["documents"])
        if index._parts is not None:
            index._parts.thaw(contents["parts"])
        return index, about

    def _vectors_of_parts(self, document: Mapping[str, Any]) -> list[Part]:
        if self._parts is None or self.definition.nested_root is None:
            return []
        parts = nested_parts(document, self.definition.nested_root)
        found = ((part, self._parts.vectors(part)) for part in parts)
        return [(part, vectors) for part, vectors in found if vectors]

    def _check_paths(self, expression: Expression) -> None:
        for path in needed_paths(expression):
            if path not in self.definition.filters:
                raise QueryError(f"Path '{path}' needs to be indexed as filter")


def nested_parts(document: Mapping[str, Any], root: str) -> Iterator[Mapping[str, Any]]:
    """Yield each sub-document at `root` alone in its place: its paths stay the full ones."""
    keys = root.split(".")
    for found in reach(document, keys):
        for part in _documents_in(found):
            placed: Mapping[str, Any] = part
            for key in reversed(keys):
                placed = {key: placed}
            yield placed


def _documents_in(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _documents_in(element)


def _flat(query: VectorQuery, vector: Vector, view: View, parents: Mask | None) -> list[Hit]:
    if parents is None:
        return _hits(view, *view.best(vector, query.limit))
    if query.candidates is None:
        return _hits(view, *view.best(vector, query.limit, parents))
    # A parent filter thins out the candidates of an approximate search, it does not choose them.
    rows, scores = view.best(vector, query.candidates)
    kept = parents[rows]
    return _hits(view, rows[kept][: query.limit], scores[kept][: query.limit])


def _hits(view: View, rows: NDArray[np.int32], scores: NDArray[np.float32]) -> list[Hit]:
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return [(view.ids[row], score) for row, score in pairs]


def _joined(query: VectorQuery, vector: Vector, view: View, wanted: Mask | None) -> list[Hit]:
    """Return the documents of the best nested ones: each once, with its best score or the mean.

    The candidates are nested documents, so a few documents may take all of them; the mean is that
    of a document's candidates.
    """
    count = len(view.ids) if query.candidates is None else query.candidates
    rows, found = view.best(vector, max(1, count), wanted)
    scores: dict[object, list[float]] = {}
    first: dict[object, int] = {}
    for row, score in zip(rows.tolist(), found.tolist(), strict=True):
        key = id_key(view.ids[row])
        scores.setdefault(key, []).append(score)
        first[key] = min(first.get(key, row), row)
    joined = [
        (-(sum(each) / len(each) if query.score_mode == "avg" else each[0]), first[key])
        for key, each in scores.items()
    ]
    joined.sort()
    return [(view.ids[row], float(np.float32(-negated))) for negated, row in joined[: query.limit]]
