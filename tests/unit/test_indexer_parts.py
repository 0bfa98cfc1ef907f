"""Progress, schedule, threads and the folder walk, each by itself."""

from __future__ import annotations

import datetime as dt
import io
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from faces.errors import ConfigError
from indexer import schedule
from indexer.crew import Crew, Half
from indexer.lanes import Lane, Lanes
from indexer.progress import Console, Tally, duration, summary


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_gets_a_bar_and_a_file_a_line_every_few_seconds() -> None:
    clock, terminal, file = Clock(), Terminal(), io.StringIO()
    bar, lines = Console(terminal, clock=clock), Console(file, clock=clock)
    for number in range(1, 101):
        clock.now += 0.2
        tally = Tally(indexed=number, faces=number, total=200)
        bar.step(tally)
        lines.step(tally)
    bar.clear()
    assert "░" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")
    assert 3 <= file.getvalue().count("\n") <= 4
    assert "of 200 pictures" in file.getvalue()
    assert "left" in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_the_summary_names_broken_entries_and_hides_control_characters() -> None:
    tally = Tally(indexed=1, failed=12, broken=1500, conflicts=3)
    tally.broken_keys = [(f"k{n}\n\x1b[31m", "truncated") for n in range(12)]
    line = summary(tally, 65, name="cms", collection="default")
    assert "1 min 5 s" in line
    assert "12 failed" in line
    assert "k0??[31m (truncated)" in line
    assert line.endswith("and 1505 more")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.6, "60 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("line", "last", "now", "due"),
    [
        ("0 2 * * *", "2026-03-09T02:00:00", "2026-03-10T01:59:59", False),
        ("0 2 * * *", "2026-03-09T01:59:59", "2026-03-09T02:00:00", True),
        ("0 2 * * * Europe/Berlin", "2026-07-09T12:00:00", "2026-07-10T00:00:00", True),
        ("*/15 * * * *", "2026-03-10T10:30:01", "2026-03-10T10:44:00", False),
        ("0 0 1 1 *", "2025-06-01T00:00:00", "2026-06-01T00:00:00", True),
        ("0 0 1 1 *", "2026-01-02T00:00:00", "2026-06-01T00:00:00", False),
        # The hour that comes twice, and the one that does not come.
        ("30 2 * * * Europe/Berlin", "2026-10-24T12:00:00", "2026-10-27T00:00:00", True),
        ("30 2 * * * Europe/Berlin", "2026-10-26T01:30:01", "2026-10-27T00:00:00", False),
        ("30 2 * * * Europe/Berlin", "2027-03-27T12:00:00", "2027-03-28T01:30:00", True),
    ],
)
def test_what_a_pause_missed_is_known(line: str, last: str, now: str, due: bool) -> None:
    assert schedule.missed(schedule.parse(line), at(last), at(now)) is due


@pytest.mark.parametrize(
    ("line", "days"),
    [
        ("0 2 * * 0", ["Sun"]),
        ("0 2 * * 7", ["Sun"]),
        ("0 2 * * 1-5", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("0 2 * * Sat,sun", ["Sat", "Sun"]),
        ("0 2 * * fri-mon", ["Fri", "Mon", "Sat", "Sun"]),
        ("0 2 * * */2", ["Sat", "Sun", "Thu", "Tue"]),
        ("0 2 * * 1/3", ["Mon", "Thu"]),
        ("0 2 * * 5-7", ["Fri", "Sat", "Sun"]),
    ],
)
def test_weekdays_are_those_of_cron(line: str, days: list[str]) -> None:
    trigger, moment, seen = schedule.parse(line), at("2026-11-23T12:00:00"), set()
    for _ in range(8):
        moment = trigger.get_next_fire_time(None, moment)
        seen.add(f"{moment:%a}")
        moment += dt.timedelta(seconds=1)
    assert sorted(seen) == sorted(days)


def test_a_day_and_a_weekday_are_each_enough_as_in_cron() -> None:
    trigger, moment, seen = schedule.parse("0 2 13 * 5"), at("2026-11-01T00:00:00"), []
    for _ in range(5):
        moment = trigger.get_next_fire_time(None, moment)
        seen.append(f"{moment:%a %d}")
        moment += dt.timedelta(seconds=1)
    assert seen == ["Fri 06", "Fri 13", "Fri 20", "Fri 27", "Fri 04"]
    trigger = schedule.parse("0 2 13 12 1")
    assert f"{trigger.get_next_fire_time(None, at('2026-11-30T03:00:00')):%a %d %b}" == "Mon 07 Dec"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "daily",
        "* * * *",
        "61 * * * *",
        "0 2 * * * Mars/Base",
        "0 2 * * * * *",
        "0 2 * * 8",
        "0 2 * * x",
        "0 2 31 2 *",
        "0 2 * * 1,",
    ],
)
def test_a_malformed_schedule_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="INDEX_SCHEDULE"):
        schedule.parse(line)


def crew(work: Callable[[int], int], size: int = 3) -> tuple[Crew[int, int], threading.Event]:
    stopping = threading.Event()
    return Crew(work, size=size, stopping=stopping), stopping


def test_a_crew_does_everything_several_at_a_time() -> None:
    busy: list[int] = []
    most = 0
    together = threading.Barrier(3, timeout=60)

    def work(n: int) -> int:
        nonlocal most
        busy.append(n)
        most = max(most, len(busy))
        if n < 3:
            together.wait()
        busy.remove(n)
        return n * n

    team, _ = crew(work)
    assert sorted(team.run(range(20))) == [n * n for n in range(20)]
    assert sorted(team.run(range(3))) == [0, 1, 4]
    team.close()
    assert most == 3


def told(team: Crew[int, int], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the crew knows of an error: until then, work that waits for it is in hand."""
    known, drop = threading.Event(), team._drop

    def dropped() -> int:
        count = drop()
        known.set()
        return count

    monkeypatch.setattr(team, "_drop", dropped)
    return known


def test_a_crews_first_error_ends_the_list_after_what_is_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []

    def work(n: int) -> int:
        if n == 2:
            raise RuntimeError("two")
        assert n < 2 or known.wait(60)
        done.append(n)
        return n

    team, _ = crew(work)
    known = told(team, monkeypatch)
    with pytest.raises(RuntimeError, match="two"):
        list(team.run(range(1000)))
    team.close()
    assert len(done) <= 2 + 3


def test_a_stop_ends_a_crew_with_what_is_in_hand() -> None:
    team, stopping = crew(lambda n: n)
    got = []
    for result in team.run(range(1000)):
        got.append(result)
        stopping.set()
    team.close()
    assert 1 <= len(got) <= 8


def test_a_crew_finishes_what_is_prepared_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.crew.LINGER_S", 60.0)
    groups: list[list[int]] = []
    given = threading.Event()

    def jobs() -> Iterator[int]:
        yield from range(20)
        given.set()
        yield from range(20, 50)

    def work(n: int) -> Half | int:
        assert given.wait(60)
        return Half(n, 3) if n % 10 else -n

    def finish(values: Sequence[int]) -> list[int]:
        groups.append(list(values))
        return [n * n for n in values]

    team: Crew[int, int] = Crew(work, finish, size=3, stopping=threading.Event(), most=12)
    assert sorted(team.run(jobs())) == sorted(n * n if n % 10 else -n for n in range(50))
    assert list(team.run([1])) == [1]
    team.close()
    assert sum(map(len, groups)) == 46
    assert max(map(len, groups)) == 4
    assert len(groups) < 40


def test_a_half_larger_than_allowed_is_finished_by_itself() -> None:
    groups: list[list[int]] = []

    def finish(values: Sequence[int]) -> list[int]:
        groups.append(list(values))
        return list(values)

    team: Crew[int, int] = Crew(
        lambda n: Half(n, n), finish, size=1, stopping=threading.Event(), most=5
    )
    assert list(team.run([1, 9, 2, 3])) == [1, 9, 2, 3]
    team.close()
    assert groups == [[1], [9], [2, 3]]


@pytest.mark.parametrize("where", ["work", "finish", "jobs"])
def test_an_error_anywhere_begins_nothing_more(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def jobs() -> Iterator[int]:
        yield from range(200)
        if where == "jobs":
            raise RuntimeError(where)
        yield from range(200, 1000)

    def work(n: int) -> Half:
        begun.append(n)
        if where == "work" and n == 2:
            raise RuntimeError(where)
        assert where == "jobs" or n <= 2 or known.wait(60)
        return Half(n)

    def finish(values: Sequence[int]) -> list[int]:
        if where == "finish":
            raise RuntimeError(where)
        return list(values)

    team: Crew[int, int] = Crew(work, finish, size=3, stopping=threading.Event())
    known = told(team, monkeypatch)
    got: list[int] = []
    with pytest.raises(RuntimeError, match=where):
        got.extend(team.run(jobs()))
    team.close()
    if where == "jobs":
        assert len(got) > 150
    else:
        assert len(begun) <= 3 + 3


def test_a_lane_that_crashes_pauses_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lane = Lane("long", ("backfill",))
    lanes = Lanes([lane], clock=clock)
    started = 0

    class Crashed:
        pid = 0

        def poll(self) -> int:
            return 1

    def child(name: str) -> Crashed:
        nonlocal started
        started += 1
        return Crashed()

    monkeypatch.setattr(lanes, "_child", child)
    pauses = []
    for _ in range(9):
        lanes.tend(lambda kinds: True)
        before = started
        lanes.tend(lambda kinds: True)
        assert started == before, "it must not start again at once"
        pauses.append(lane.pause_s)
        clock.now += lane.pause_s
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    lane.child = None
    lanes.tend(lambda kinds: False)
    assert started == 9
