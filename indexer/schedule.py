"""When a reconcile is due: a cron line with an optional time zone, and what a pause missed."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from faces.errors import ConfigError

FIRST_LOOK = dt.timedelta(days=8)


def parse(line: str) -> Any:
    """The trigger for `minute hour day month weekday [time zone]`; UTC when none is named.

    Raises ConfigError naming INDEX_SCHEDULE.
    """
    parts = line.split()
    zone: dt.tzinfo = dt.UTC
    try:
        if len(parts) == 6:
            zone = ZoneInfo(parts.pop())
        return CronTrigger.from_crontab(" ".join(parts), timezone=zone)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise ConfigError(
            "INDEX_SCHEDULE: must read `minute hour day month weekday`, as cron does, with an"
            " optional time zone behind it (0 2 * * * Europe/Berlin)"
        ) from None


def last_due(trigger: Any, now: dt.datetime) -> dt.datetime | None:
    """The latest moment up to `now` at which the trigger was due, looking back eight days."""
    due, moment = None, now - FIRST_LOOK
    while (moment := trigger.get_next_fire_time(due, moment)) is not None and moment <= now:
        due = moment
        moment = moment + dt.timedelta(seconds=1)
    return due


def scheduler() -> Any:
    """A scheduler that runs one thing at a time, joins what it missed, and decides nothing."""
    return BackgroundScheduler(
        timezone=dt.UTC,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
