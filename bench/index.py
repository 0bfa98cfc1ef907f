"""Indexing: photos a second against the bare pipeline, unchanged items a second, memory, web."""

from __future__ import annotations

from collections.abc import Iterator

from bench import index_memory, index_speed, index_web
from bench.report import Row


def rows() -> Iterator[Row]:
    """The three parts, each of which can also be measured by itself."""
    yield from index_speed.rows()
    yield from index_memory.rows()
    yield from index_web.rows()
