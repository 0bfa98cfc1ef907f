"""What a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence

from faces.records import KnownItem
from indexer.items import Ready, Result, Task
from indexer.sources.base import Unusable


class DryItems:
    """Answers as `Items` does and writes nothing: a picture to fetch counts as indexed."""

    def prepare(self, task: Task) -> Result:
        """What would be tried for one task."""
        ending = "updated" if task.step.verb == "inform" else "indexed"
        return Result(task.entry.key, ending)  # type: ignore[arg-type]  # both are endings

    def store(self, made: Sequence[Ready]) -> list[Result]:
        """Nothing: nothing is ever prepared."""
        return []

    def unusable(self, listed: Unusable, known: KnownItem | None) -> Result:
        """The failure that would be recorded."""
        return Result(listed.key, "failed", reason=listed.reason, detail=listed.detail)

    def delete(self, key: str, media_id: str) -> Result:
        """The deletion that would be made, of no faces."""
        return Result(key, "deleted")
