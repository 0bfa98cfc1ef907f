"""The search-index commands as values: their fields, checked as strictly as the server does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localatlas.definition import Definition, parse_definition
from localatlas.errors import (
    IDL_FIELD_MISSING,
    IDL_UNKNOWN_FIELD,
    INVALID_NAMESPACE,
    INVALID_OPTIONS,
    OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
    TYPE_MISMATCH,
    UNKNOWN_ERROR,
    failure,
    unsupported,
)
from localatlas.reader import MalformedError, Reader

# What any command may carry besides its own fields.
_GENERIC = frozenset(
    {
        "$db", "$clusterTime", "$readPreference", "$audit", "$client", "$configServerState",
        "lsid", "txnNumber", "autocommit", "startTransaction", "comment", "maxTimeMS",
        "apiVersion", "apiStrict", "apiDeprecationErrors", "rawData", "mayBypassWriteBlocking",
    }
)  # fmt: skip
_OWN = {
    "createSearchIndexes": frozenset({"indexes"}),
    "updateSearchIndex": frozenset({"name", "id", "definition"}),
    "dropSearchIndex": frozenset({"name", "id"}),
    "listSearchIndexes": frozenset({"name", "id", "cursor"}),
}
_SERVER_TYPES = {bool: "bool", int: "int", float: "double", str: "string", dict: "object",
                 list: "array", type(None): "null"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewIndex:
    """One index that createSearchIndexes asks for."""

    name: str
    definition: Definition
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Which index a command means: by name or by id; neither is every index."""

    name: str | None = None
    id: str | None = None

    def matches(self, name: str, index_id: str) -> bool:
        return self.name in (None, name) and self.id in (None, index_id)

    def missing(self, namespace: str) -> str:
        """The server's message when there is no such index."""
        what = f"name {self.name}" if self.name is not None else f"id {self.id}"
        return f"No index with {what} exists in namespace {namespace}"


def check_fields(command: str, body: Mapping[str, Any]) -> str:
    """The collection's name; CommandError for fields, types and contexts the server refuses."""
    if in_transaction(body):
        raise failure(
            OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
            f"Cannot run '{command}' in a multi-document transaction.",
        )
    collection = body[command]
    if not isinstance(collection, str):
        raise failure(
            TYPE_MISMATCH if not isinstance(collection, int) else INVALID_NAMESPACE,
            f"collection name has invalid type {_type(collection)}",
        )
    if not collection or "\0" in collection:
        raise failure(
            INVALID_NAMESPACE, f"Invalid namespace specified '{body.get('$db', '')}.{collection}'"
        )
    for concern in ("writeConcern", "readConcern"):
        if concern in body:
            raise failure(INVALID_OPTIONS, f"Command {command} does not support {concern}")
    for name in body:
        if name != command and name not in _GENERIC and name not in _OWN[command]:
            raise failure(IDL_UNKNOWN_FIELD, f"BSON field '{command}.{name}' is an unknown field.")
    if command == "createSearchIndexes":
        for position, one in enumerate(_required(body, command, "indexes", list)):
            if not isinstance(one, dict):
                raise _wrong_type(command, f"indexes.{position}", one, dict)
    return collection


def in_transaction(body: Mapping[str, Any]) -> bool:
    return body.get("autocommit") is False


def parse_create(body: Mapping[str, Any]) -> list[NewIndex]:
    """The indexes of a command that `check_fields` let pass; CommandError names the field."""
    indexes = body["indexes"]
    if not indexes:
        raise failure(UNKNOWN_ERROR, '"userCommand.indexes" cannot be empty')
    return [_new_index(one, position) for position, one in enumerate(indexes)]


def _new_index(one: Mapping[str, Any], position: int) -> NewIndex:
    where = f"userCommand.indexes[{position}]"
    reader = Reader(one, where)
    try:
        name = reader.string("name", empty=False)
        kind = reader.choice("type", ("search", "vectorSearch"), "search")
        document = reader.required("definition")
        if not isinstance(document, Mapping):
            raise reader.fail("must be a document", "definition")
        if kind == "search":
            if document.get("mappings") is None:
                raise reader.fail("is required", "mappings")
            raise unsupported('full-text search indexes (type "search")')
        definition = parse_definition(document, where=where)
        reader.finish()
    except MalformedError as error:
        raise failure(UNKNOWN_ERROR, str(error)) from error
    return NewIndex("default" if name is None else name, definition, document)


def parse_update(body: Mapping[str, Any]) -> tuple[Target, Mapping[str, Any]]:
    """What updateSearchIndex means and the definition document, still to be parsed."""
    definition = _required(body, "updateSearchIndex", "definition", dict)
    target = _target("updateSearchIndex", body)
    if target.name is None and target.id is None:
        raise failure(INVALID_OPTIONS, "Must set either 'name' or 'id'.")
    return target, definition


def parse_drop(body: Mapping[str, Any]) -> Target:
    """What dropSearchIndex means."""
    target = _target("dropSearchIndex", body)
    if target.name is None and target.id is None:
        raise failure(UNKNOWN_ERROR, '"userCommand" one of [id, name] must be present')
    return target


def parse_list(body: Mapping[str, Any]) -> Target:
    """Which indexes the listSearchIndexes command or stage wants."""
    return _target("listSearchIndexes", body)


def _target(command: str, body: Mapping[str, Any]) -> Target:
    for key in ("name", "id"):
        value = body.get(key)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(command, key, value, str)
    if body.get("name") is not None and body.get("id") is not None:
        raise failure(INVALID_OPTIONS, "Cannot set both 'name' and 'id'.")
    return Target(body.get("name"), body.get("id"))


def _required(body: Mapping[str, Any], command: str, key: str, kind: type) -> Any:
    value = body.get(key)
    if value is None:
        raise failure(
            IDL_FIELD_MISSING, f"BSON field '{command}.{key}' is missing but a required field"
        )
    if not isinstance(value, kind):
        raise _wrong_type(command, key, value, kind)
    return value


def _wrong_type(command: str, key: str, value: object, kind: type) -> Exception:
    return failure(
        TYPE_MISMATCH,
        f"BSON field '{command}.{key}' is the wrong type '{_type(value)}', "
        f"expected type '{_SERVER_TYPES[kind]}'",
    )


def _type(value: object) -> str:
    for kind, name in _SERVER_TYPES.items():
        if isinstance(value, kind):
            return name
    return type(value).__name__.lower()
