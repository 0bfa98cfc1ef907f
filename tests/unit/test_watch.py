"""What is known of a database that says nothing."""

from __future__ import annotations

import threading
from typing import Any, cast

from pymongo.errors import AutoReconnect

from faces.database import Db
from faces.watch import Watch


class Silent:
    """A database that takes questions and does not answer until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()
        self.askers: set[str] = set()

    def __getitem__(self, name: str) -> Silent:
        return self

    def __getattr__(self, name: str) -> Any:
        return self._answer

    def _answer(self, *args: Any, **options: Any) -> None:
        self.askers.add(threading.current_thread().name)
        self.asked.set()
        self.over.wait(60)
        raise AutoReconnect


def test_nobody_waits_to_hear_that_the_database_is_silent() -> None:
    silent = Silent()
    watch = Watch(cast(Db, silent))
    watch.start()
    try:
        assert silent.asked.wait(60)
        assert "not answered" in watch.problems()["database"]
        assert silent.askers == {"watch"}
    finally:
        silent.over.set()
        watch.stop()
