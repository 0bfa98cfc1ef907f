"""Progress, schedule, threads and the folder walk, each by itself."""

from __future__ import annotations

import datetime as dt
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from faces.errors import ConfigError
from indexer import schedule
from indexer.crew import Crew, Half
from indexer.lanes import Lane, Lanes
from indexer.progress import Console, Tally, duration, summary
from indexer.sources.base import Entry, Gone, Unreadable
from indexer.sources.folder import FolderSource


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
    tally = Tally(indexed=1, failed=12)
    tally.broken_keys = [(f"k{n}\n\x1b[31m", "truncated") for n in range(12)]
    line = summary(tally, 65, name="cms", collection="default")
    assert "1 min 5 s" in line
    assert "12 failed" in line
    assert "k0??[31m (truncated)" in line
    assert line.endswith("and 2 more")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.6, "60 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("line", "now", "due"),
    [
        ("0 2 * * *", "2026-03-10T01:59:59", "2026-03-09T02:00:00"),
        ("0 2 * * *", "2026-03-10T02:00:00", "2026-03-10T02:00:00"),
        ("0 2 * * * Europe/Berlin", "2026-07-10T12:00:00", "2026-07-10T00:00:00"),
        ("*/15 * * * *", "2026-03-10T10:44:00", "2026-03-10T10:30:00"),
        ("0 0 1 1 *", "2026-06-01T00:00:00", None),
    ],
)
def test_what_a_pause_missed_is_known(line: str, now: str, due: str | None) -> None:
    found = schedule.last_due(schedule.parse(line), at(now))
    assert (found and found.astimezone(dt.UTC)) == (due and at(due))


@pytest.mark.parametrize(
    "line", ["", "daily", "* * * *", "61 * * * *", "0 2 * * * Mars/Base", "0 2 * * * * *"]
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

    def work(n: int) -> int:
        nonlocal most
        busy.append(n)
        most = max(most, len(busy))
        time.sleep(0.01)
        busy.remove(n)
        return n * n

    team, _ = crew(work)
    assert sorted(team.run(range(20))) == [n * n for n in range(20)]
    assert sorted(team.run(range(3))) == [0, 1, 4]
    team.close()
    assert most == 3


def test_a_crews_first_error_ends_the_list_after_what_is_in_hand() -> None:
    done: list[int] = []

    def work(n: int) -> int:
        if n == 2:
            raise RuntimeError("two")
        done.append(n)
        return n

    team, _ = crew(work)
    with pytest.raises(RuntimeError, match="two"):
        list(team.run(range(1000)))
    team.close()
    assert len(done) < 20


def test_a_stop_ends_a_crew_with_what_is_in_hand() -> None:
    team, stopping = crew(lambda n: n)
    got = []
    for result in team.run(range(1000)):
        got.append(result)
        stopping.set()
    team.close()
    assert 1 <= len(got) <= 8


def test_a_crew_finishes_what_is_prepared_several_at_once() -> None:
    groups: list[list[int]] = []

    def finish(values: Sequence[int]) -> list[int]:
        groups.append(list(values))
        return [n * n for n in values]

    team: Crew[int, int] = Crew(
        lambda n: Half(n, 3) if n % 10 else -n, finish, size=3, stopping=threading.Event(), most=12
    )
    assert sorted(team.run(range(50))) == sorted(n * n if n % 10 else -n for n in range(50))
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
def test_an_error_anywhere_begins_nothing_more(where: str) -> None:
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
        return Half(n)

    def finish(values: Sequence[int]) -> list[int]:
        if where == "finish":
            raise RuntimeError(where)
        return list(values)

    team: Crew[int, int] = Crew(work, finish, size=3, stopping=threading.Event())
    got: list[int] = []
    with pytest.raises(RuntimeError, match=where):
        got.extend(team.run(jobs()))
    team.close()
    if where == "jobs":
        assert len(got) > 150
    else:
        assert len(begun) < 100


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("b/z.jpg", "b/a.png", "a.jpg", "c.JPG", "b.jpg", ".hidden.jpg", "b/.x/y.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return root


def keys(source: FolderSource, cursor: str | None = None) -> list[str]:
    return [entry.key for page in source.pages(cursor) for entry in page.entries]


def test_a_folder_is_listed_in_a_stable_order_and_from_a_cursor(tree: Path) -> None:
    source = FolderSource(tree)
    every = keys(source)
    assert every == ["a.jpg", "b/a.png", "b/z.jpg", "b.jpg", "c.JPG"]
    for position, key in enumerate(every):
        assert keys(source, key) == every[position + 1 :]
    assert source.total() == 5
    source.close()


@pytest.mark.parametrize(
    "key",
    ["../secret.jpg", "b/../../secret.jpg", "/etc/passwd", "b//a.png", "./a.jpg", "", "..", "b/",
     "a.jpg\0", "link.jpg", "dirlink/secret.jpg", "loop/loop/a.jpg", "b", "%2e%2e/secret.jpg"],
)  # fmt: skip
def test_no_path_leads_out_of_the_root(tree: Path, key: str) -> None:
    (tree / "link.jpg").symlink_to(tree.parent / "secret.jpg")
    (tree / "dirlink").symlink_to(tree.parent)
    (tree / "loop").symlink_to(tree)
    source = FolderSource(tree)
    with pytest.raises((Gone, Unreadable)):
        source.read(Entry(key, key, "1"), max_bytes=100, etag=None, modified=None)
    source.close()


def test_a_file_swapped_for_a_link_or_a_pipe_is_refused(tree: Path) -> None:
    source = FolderSource(tree)
    entry = Entry("a.jpg", "a.jpg", "1")
    assert source.read(entry, max_bytes=100, etag=None, modified=None).data == b"a.jpg"
    (tree / "a.jpg").unlink()
    os.mkfifo(tree / "a.jpg")
    with pytest.raises(Unreadable, match="not a regular file"):
        source.read(entry, max_bytes=100, etag=None, modified=None)
    (tree / "a.jpg").unlink()
    (tree / "a.jpg").symlink_to(tree.parent / "secret.jpg")
    with pytest.raises(Gone):
        source.read(entry, max_bytes=100, etag=None, modified=None)
    # A folder on the way that becomes a link leads nowhere either.
    os.rename(tree / "b", tree.parent / "moved")
    (tree / "b").symlink_to(tree.parent / "moved")
    with pytest.raises(Gone):
        source.read(Entry("b/z.jpg", "b/z.jpg", "1"), max_bytes=100, etag=None, modified=None)
    assert source.absent(["b/z.jpg", "c.JPG"]) == {"b/z.jpg"}
    source.close()


def test_a_file_over_the_cap_is_not_read(tree: Path) -> None:
    (tree / "big.jpg").write_bytes(b"x" * 101)
    source = FolderSource(tree)
    with pytest.raises(Unreadable) as refused:
        source.read(Entry("big.jpg", "big.jpg", "1"), max_bytes=100, etag=None, modified=None)
    assert refused.value.permanent
    source.close()
