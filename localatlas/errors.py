"""Errors that localatlas answers a client with.

    CommandError                 code, name and message of a MongoDB error reply
    └── QueryError               what the search engine behind the server refuses (code 8)

Source of codes: the server's error_codes list; 5-digit and longer codes are fixed numbers of one
check.
"""

from __future__ import annotations

BAD_VALUE = 2
UNKNOWN_ERROR = 8
FAILED_TO_PARSE = 9
UNAUTHORIZED = 13
TYPE_MISMATCH = 14
OVERFLOW = 15
ILLEGAL_OPERATION = 20
NAMESPACE_NOT_FOUND = 26
INDEX_NOT_FOUND = 27
INDEX_ALREADY_EXISTS = 68
INVALID_OPTIONS = 72
INVALID_NAMESPACE = 73
COMMAND_NOT_SUPPORTED = 115
COMMAND_FAILED = 125
OPTION_NOT_SUPPORTED_ON_VIEW = 167
INVALID_INDEX_SPECIFICATION_OPTION = 197
OPERATION_NOT_SUPPORTED_IN_TRANSACTION = 263
API_STRICT_ERROR = 323
IDL_FIELD_MISSING = 40414
IDL_UNKNOWN_FIELD = 40415
STAGE_NOT_OF_ONE_KEY = 40323
NOT_ALLOWED_IN_FACET = 40600
NOT_FIRST_STAGE = 40602
NOT_ALLOWED_IN_LOOKUP = 51047
SEARCH_META_UNAVAILABLE = 6347902
LIMIT_NOT_POSITIVE = 7912700
LIMIT_NOT_A_NUMBER = 8575100

NAMES = {
    BAD_VALUE: "BadValue",
    UNKNOWN_ERROR: "UnknownError",
    FAILED_TO_PARSE: "FailedToParse",
    TYPE_MISMATCH: "TypeMismatch",
    OVERFLOW: "Overflow",
    ILLEGAL_OPERATION: "IllegalOperation",
    NAMESPACE_NOT_FOUND: "NamespaceNotFound",
    INDEX_NOT_FOUND: "IndexNotFound",
    INDEX_ALREADY_EXISTS: "IndexAlreadyExists",
    INVALID_OPTIONS: "InvalidOptions",
    INVALID_NAMESPACE: "InvalidNamespace",
    COMMAND_NOT_SUPPORTED: "CommandNotSupported",
    COMMAND_FAILED: "CommandFailed",
    OPTION_NOT_SUPPORTED_ON_VIEW: "OptionNotSupportedOnView",
    API_STRICT_ERROR: "APIStrictError",
    INVALID_INDEX_SPECIFICATION_OPTION: "InvalidIndexSpecificationOption",
    OPERATION_NOT_SUPPORTED_IN_TRANSACTION: "OperationNotSupportedInTransaction",
    IDL_FIELD_MISSING: "IDLFailedToParse",
    IDL_UNKNOWN_FIELD: "IDLUnknownField",
}

EXECUTOR = "PlanExecutor error during aggregation :: caused by :: "


class CommandError(Exception):
    """An error reply: `code`, `name` (its codeName) and `message` (its errmsg)."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.message = message


class QueryError(CommandError):
    """An error of the search engine while it runs a query: code 8 behind the executor's prefix."""

    def __init__(self, message: str) -> None:
        super().__init__(UNKNOWN_ERROR, NAMES[UNKNOWN_ERROR], EXECUTOR + message)


def failure(code: int, message: str) -> CommandError:
    """Return the CommandError for `code`, with the name the server gives that code."""
    return CommandError(code, NAMES.get(code, f"Location{code}"), message)


def unsupported(feature: str) -> CommandError:
    """Return the refusal of a feature that Atlas has and localatlas has not."""
    return failure(
        COMMAND_NOT_SUPPORTED,
        f"localatlas does not support {feature}. Leave it out here, or use a real Atlas cluster.",
    )
