"""Runs `python -m migrations …` with one named point armed: `python -m tests.armed_migrations POINT
…`; `none` arms nothing.

The process is killed at the point. Models are made up, and nothing writes meanwhile, so that the
wait for writes under way is cut short. The migrations know nothing of it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from pymongo import monitoring

from faces import reembed
from faces.job_run import Handler
from faces.jobs import Jobs
from faces.reembed import Tools
from faces.settings import Settings
from faces.store_models import ModelStore
from faces.types import Analysis, Detection, Face, Picture
from migrations import cli, cli_model, switching
from migrations.runner import Runner
from tests.armed import Point, after, before
from tests.faces_made import vector

PICTURE = b"made up"


class Embedder:
    """Gives every face the same vector of a model."""

    build = "made"

    def __init__(self, model: str) -> None:
        self.model = model

    def embed_known(self, data: bytes, detections: Sequence[Detection]) -> Analysis:
        faces = tuple(
            Face(found, 1.0, (), vector(round(found.box.x), self.model)) for found in detections
        )
        return Analysis(Picture(1, 1, ""), faces, self.model, self.build)


def made_up(settings: Settings) -> Handler:
    """The re-embedding job with made-up originals and vectors."""
    return lambda run: reembed.reembed(
        run, lambda key: Tools(Embedder(key), lambda item: PICTURE, lambda: None)
    )


class Flips(monitoring.CommandListener):
    """Strikes when the command that flips is about to be sent."""

    def __init__(self, point: Point) -> None:
        self._point = point

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "update" and event.command["update"] == "likeness_models":
            change = event.command["updates"][0]["u"].get("$set", {})
            if "previous" in change and "since" in change:
                self._point.reached()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def arm(where: str) -> None:
    """Arm one point."""
    point = Point(1, signal.SIGKILL)
    if where == "embedded":
        before(Jobs, "end", point)
    elif where == "before_flip":
        before(ModelStore, "flip", point)
    elif where == "in_flip":
        monitoring.register(Flips(point))
    elif where == "flipped":
        after(ModelStore, "flip", point)
    elif where == "noted":
        after(ModelStore, "begin_switch", point)
    elif where == "forgotten":
        after(ModelStore, "forget", point)
    elif where == "dropped":
        after(Runner, "send", point)
    elif where == "unset":
        switching.PRUNE_PAGE = 2
        say = cli._say

        def heard(line: str) -> None:
            say(line)
            if "vectors of" in line:
                point.reached()

        cli._say = heard
    elif where != "none":
        raise SystemExit(f"no point {where}")


if __name__ == "__main__":
    setattr(switching, "IN_FLIGHT_S", 0.1)  # noqa: B010  # imported there from elsewhere
    switching.DRAIN_S = switching.SEEN_S + 0.5
    setattr(cli_model, "handler", made_up)  # noqa: B010
    arm(sys.argv[1])
    raise SystemExit(cli.main(sys.argv[2:]))
