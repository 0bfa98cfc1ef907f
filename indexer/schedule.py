"""When a reconcile is due: a cron line with an optional time zone, and what a pause missed."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from faces.errors import ConfigError

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WEEKDAYS = re.compile(r"(?:\*|([0-7]|[a-z]{3})(?:-([0-7]|[a-z]{3}))?)(?:/([1-7]))?", re.IGNORECASE)


def parse(line: str) -> Any:
    """The trigger for `minute hour day month weekday [time zone]`; UTC when none is named.

    Raises ConfigError naming INDEX_SCHEDULE.
    """
    parts = line.split()
    zone: dt.tzinfo = dt.UTC
    try:
        if len(parts) == 6:
            zone = ZoneInfo(parts.pop())
        minute, hour, day, month, weekday = parts
        trigger = _trigger(minute, hour, day, month, _weekdays(weekday), zone)
        if trigger.get_next_fire_time(None, dt.datetime.now(dt.UTC)) is None:
            raise ValueError
        return trigger
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise ConfigError(
            "INDEX_SCHEDULE: must read `minute hour day month weekday`, as cron does, with an"
            " optional time zone behind it (0 2 * * * Europe/Berlin), and name a day that comes"
        ) from None


def _trigger(
    minute: str, hour: str, day: str, month: str, weekday: str, zone: dt.tzinfo
) -> CronTrigger | OrTrigger:
    def on(day: str, weekday: str) -> CronTrigger:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=zone
        )

    if day.startswith("*") or weekday == "*":
        return on(day, weekday)
    # As cron has it: with both restricted, either of them is enough.
    return OrTrigger([on(day, "*"), on("*", weekday)])


def _weekdays(field: str) -> str:
    """The weekdays of cron (0 and 7 are Sunday) by name: the scheduler counts from Monday."""
    if field == "*":
        return field
    names: list[str] = []
    for part in field.split(","):
        found = _WEEKDAYS.fullmatch(part)
        if found is None:
            raise ValueError(field)
        first, last, step = found.groups()
        start = _number(first) if first else 0
        end = _number(last) if last else (start if first and not step else 6)
        end += 7 if end < start else 0
        names += [_DAYS[day % 7] for day in range(start, end + 1, int(step or 1))]
    return ",".join(dict.fromkeys(names))


def _number(day: str) -> int:
    return int(day) if day.isdigit() else _DAYS.index(day.lower())


def missed(trigger: Any, last: dt.datetime, now: dt.datetime) -> bool:
    """Whether the trigger was due after `last` and up to `now`."""
    due = trigger.get_next_fire_time(None, last + dt.timedelta(microseconds=1))
    return due is not None and due <= now


def scheduler() -> Any:
    """A scheduler that runs one thing at a time, joins what it missed, and decides nothing."""
    return BackgroundScheduler(
        timezone=dt.UTC,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
