"""Readiness: what the background threads know, as one answer."""

from __future__ import annotations

from typing import Literal

from app.schemas_service import Readiness
from app.services import NO_DATABASE, Services

_ENCODER = {
    "disabled": "disabled",
    "loading": "loading",
    "ready": "ready",
    "unavailable": "unavailable",
    "mismatch": "model_mismatch",
}


def readiness(parts: Services) -> Readiness:
    """The state of encoder, database and vector index, with a sentence for each that is not ready.

    A queryable index counts as ready whatever its status is; a status worth knowing stands in
    `reasons` beside it.
    """
    disabled = parts.engine.state == "disabled"
    checks = {"encoder": _ENCODER[parts.engine.state]}
    reasons: dict[str, str] = {}
    if parts.engine.state not in ("ready", "disabled"):
        reasons["encoder"] = parts.engine.reason
    if not parts.encoder_only:
        _database(parts, checks, reasons, disabled=disabled)
    awaited = parts.settings.ready_file
    if awaited is not None and not awaited.exists():
        checks["samples"] = "loading"
        reasons["samples"] = "The sample photos are being indexed."
    return Readiness(status=_status(checks, disabled=disabled), checks=checks, reasons=reasons)


def _database(
    parts: Services, checks: dict[str, str], reasons: dict[str, str], *, disabled: bool
) -> None:
    watch = parts.watch
    if watch is None:
        checks["database"] = "not_configured"
        checks["vector_index"] = "disabled" if disabled else "not_configured"
        if not disabled:
            reasons["database"] = NO_DATABASE
        return
    problems = watch.problems()
    checks["database"] = "unavailable" if "database" in problems else "ready"
    if disabled:
        problems.pop("vector_index", None)
        checks["vector_index"] = "disabled"
    else:
        checks["vector_index"] = _index(parts, problems)
    reasons |= problems


def _index(parts: Services, problems: dict[str, str]) -> str:
    if "database" in problems:
        problems["vector_index"] = "It cannot be read while the database is away."
        return "unknown"
    if "vector_index" not in problems:
        return "ready"
    return "building" if parts.index_is_building() else "not_ready"


def _status(
    checks: dict[str, str], *, disabled: bool
) -> Literal["ready", "disabled", "loading", "degraded"]:
    fine = {"ready", "disabled"} | ({"not_configured"} if disabled else set())
    states = set(checks.values())
    if states <= fine:
        return "disabled" if disabled else "ready"
    return "loading" if states <= fine | {"loading", "building"} else "degraded"
