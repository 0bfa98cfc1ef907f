"""The store's own kinds of job by name: what the worker's short lane runs."""

from __future__ import annotations

from collections.abc import Mapping

from faces import sweeps
from faces.erase import erase
from faces.job_run import Handler

HANDLERS: Mapping[str, Handler] = {
    "erase": erase,
    "delete_collection": sweeps.delete_collection,
    "delete_subject": sweeps.delete_subject,
    "redeclare": sweeps.redeclare,
    "assign": sweeps.assign,
    "unassign": sweeps.unassign,
}
