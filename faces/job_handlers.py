"""The store's own kinds of job by name: what the worker's short lane runs."""

from __future__ import annotations

from collections.abc import Mapping

from faces.job_run import Handler

HANDLERS: Mapping[str, Handler] = {}
