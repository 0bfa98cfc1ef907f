"""Parses and checks the definition of a vector search index.

Source of the rules and the wording: the search engine's own definition parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localatlas.errors import COMMAND_FAILED, UNKNOWN_ERROR, failure, unsupported
from localatlas.reader import MalformedError, Reader

MAX_DIMENSIONS = 8192
FIELD_TYPES = ("vector", "filter", "text", "autoEmbed", "embeddedDocuments")
PARTITIONS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class VectorField:
    """A path whose vectors are indexed, their length and how they are compared."""

    path: str
    dimensions: int
    similarity: str
    quantization: str = "none"
    indexing_method: str = "hnsw"
    max_edges: int = 16
    edge_candidates: int = 100


@dataclass(frozen=True, slots=True)
class FilterField:
    """A path whose values a query may filter by."""

    path: str


@dataclass(frozen=True, slots=True)
class StoredSource:
    """Which paths of a document the index keeps a copy of, beside its `_id`."""

    included: bool
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """A checked index definition with every default filled in."""

    fields: tuple[VectorField | FilterField, ...]
    partitions: int = 1
    stored_source: StoredSource | None = None
    nested_root: str | None = None

    def vector(self, path: str) -> VectorField | None:
        """Return the vector field at `path`, or None."""
        for field in self.fields:
            if isinstance(field, VectorField) and field.path == path:
                return field
        return None

    @property
    def vectors(self) -> tuple[VectorField, ...]:
        """The vector fields, in the order of the definition."""
        return tuple(field for field in self.fields if isinstance(field, VectorField))

    @property
    def filters(self) -> tuple[str, ...]:
        """The paths of the filter fields, in the order of the definition."""
        return tuple(field.path for field in self.fields if isinstance(field, FilterField))

    @property
    def nulls(self) -> tuple[str, ...]:
        """The other paths whose nulls a query may filter by: vector fields, and above any field."""
        keys = [field.path.split(".") for field in self.fields]
        above = {".".join(each[:depth]) for each in keys for depth in range(1, len(each))}
        vectors = {field.path for field in self.vectors}
        return tuple(sorted((above | vectors) - set(self.filters)))

    def is_nested(self, path: str) -> bool:
        """Whether `path` lies under the nested root."""
        return self.nested_root is not None and path.startswith(self.nested_root + ".")

    def equivalent(self, other: Definition) -> bool:
        """Whether creating `other` beside this one is "the same index again".

        Fields in their order and the partitions count; stored source and nested root do not.
        """
        return (self.fields, self.partitions) == (other.fields, other.partitions)

    def normalised(self) -> dict[str, Any]:
        """Return the definition as a document, defaults left out, as the status reports it."""
        document: dict[str, Any] = {"fields": [_document(field) for field in self.fields]}
        if self.partitions != 1:
            document["numPartitions"] = self.partitions
        if self.stored_source:
            key = "include" if self.stored_source.included else "exclude"
            document["storedSource"] = {key: sorted(self.stored_source.paths)}
        if self.nested_root is not None:
            document["nestedRoot"] = self.nested_root
        return document


def parse_definition(definition: Mapping[str, Any], *, where: str) -> Definition:
    """Return the checked definition, or raise CommandError.

    `where` is the path of the definition in the command: `userCommand.indexes[0]` on create
    (unknown keys at the top are then ignored and errors have code 8), "" on update (unknown keys
    are refused and errors have code 125, because there the command catches the parse error).
    """
    reader = Reader(definition, where)
    try:
        parsed = _definition(reader)
        if not where:
            reader.finish()
    except MalformedError as error:
        raise failure(UNKNOWN_ERROR if where else COMMAND_FAILED, str(error)) from error
    if parsed.nested_root is not None:
        _check_nested_root(parsed)
    return parsed


def _definition(reader: Reader) -> Definition:
    fields = tuple(_field(field) for field in reader.documents("fields"))
    if not fields:
        raise reader.fail("cannot be empty", "fields")
    if len({field.path for field in fields}) < len(fields):
        raise reader.fail("Vector and filter fields should have distinct paths", "fields")
    if not any(isinstance(field, VectorField) for field in fields):
        raise reader.fail('must hold at least one field of type "vector"', "fields")
    partitions = reader.integer("numPartitions")
    if partitions is not None and partitions not in PARTITIONS:
        raise reader.fail(
            f"numPartitions {partitions} must be of 1, 2, 4, 8, 16, 32, or 64.", "numPartitions"
        )
    stored = _stored_source(reader)
    return Definition(fields, partitions or 1, stored, reader.string("nestedRoot"))


def _field(reader: Reader) -> VectorField | FilterField:
    kind = reader.choice("type", FIELD_TYPES)
    if kind not in ("vector", "filter"):
        raise unsupported(f'index fields of type "{kind}" (automated embedding, nested documents)')
    path = reader.string("path")
    if path is None:
        raise reader.fail("is required", "path")
    field = _vector_field(reader, path) if kind == "vector" else FilterField(path)
    reader.finish()
    return field


def _vector_field(reader: Reader, path: str) -> VectorField:
    dimensions = reader.integer("numDimensions", bounds=(1, MAX_DIMENSIONS))
    if dimensions is None:
        raise reader.fail("is required", "numDimensions")
    quantization = reader.choice("quantization", ("none", "scalar", "binary"), "none")
    if quantization == "binary" and dimensions % 8:
        raise reader.fail(
            f"numDimensions {dimensions} must be a multiple of 8 for binary quantization"
        )
    edges, candidates = 16, 100
    options = reader.document("hnswOptions")
    if options:
        edges = options.integer("maxEdges", bounds=(16, 64)) or edges
        candidates = options.integer("numEdgeCandidates", bounds=(100, 3200)) or candidates
        options.finish()
    method = reader.choice("indexingMethod", ("hnsw", "flat"), "hnsw")
    if options and method == "flat":
        raise reader.fail('hnswOptions is only supported with "indexingMethod: hnsw".')
    similarity = reader.choice("similarity", ("cosine", "dotProduct", "euclidean"))
    # The only engine that can be named; it changes nothing.
    reader.choice("engine", ("lucene",), "lucene")
    return VectorField(path, dimensions, similarity, quantization, method, edges, candidates)


def _stored_source(reader: Reader) -> StoredSource | None:
    value = reader.value("storedSource")
    if value is None or value is False:
        return None
    if value is True:
        raise reader.fail(
            "storedSource: true is not supported for vector indexes. "
            "Accepted values are include, exclude, or false.",
            "storedSource",
        )
    if not isinstance(value, Mapping):
        raise reader.fail("must be a boolean or document", "storedSource")
    options = Reader(value, reader.at("storedSource"))
    given = [key for key in ("include", "exclude") if options.value(key) is not None]
    if not given:
        raise options.fail("one of [include, exclude] must be present")
    if len(given) > 1:
        raise options.fail("only one of [include, exclude] may be present")
    options.finish()
    paths = options.value(given[0])
    if not isinstance(paths, list | tuple):
        raise options.fail("must be a array", given[0])
    if not paths:
        raise options.fail("cannot be empty", given[0])
    for position, path in enumerate(paths):
        if not isinstance(path, str):
            raise options.fail("must be a string", f"{given[0]}[{position}]")
        if not path.strip():
            raise options.fail("cannot be blank", f"{given[0]}[{position}]")
    return StoredSource(given[0] == "include", tuple(paths))


def _check_nested_root(definition: Definition) -> None:
    if not any(definition.is_nested(field.path) for field in definition.fields):
        raise failure(
            COMMAND_FAILED,
            f'nestedRoot "{definition.nested_root}" does not match any vector field path',
        )


def _document(field: VectorField | FilterField) -> dict[str, Any]:
    if isinstance(field, FilterField):
        return {"type": "filter", "path": field.path}
    document: dict[str, Any] = {
        "type": "vector",
        "path": field.path,
        "numDimensions": field.dimensions,
    }
    if field.indexing_method != "hnsw":
        document["indexingMethod"] = field.indexing_method
    options = {}
    if field.max_edges != 16:
        options["maxEdges"] = field.max_edges
    if field.edge_candidates != 100:
        options["numEdgeCandidates"] = field.edge_candidates
    if options:
        document["hnswOptions"] = options
    document["similarity"] = field.similarity
    if field.quantization != "none":
        document["quantization"] = field.quantization
    return document
