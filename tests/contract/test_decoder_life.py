"""The decoder's child dies, hangs or talks nonsense, callers stand in line: no harm is done."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from faces.decoder import Decoder
from faces.errors import Busy, Cancelled, InvalidImage
from faces.image import probe
from tests.decoding import IDENTITY, bgr, opened, reason
from tests.hostile import jpeg, photo, png, webp


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


def test_a_child_that_was_killed_is_replaced_unnoticed(decoder: Decoder) -> None:
    decoder.warm()
    first = decoder.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert np.array_equal(opened(decoder, png()), bgr(photo()))
    assert decoder.pid not in (None, first)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_picture_whose_child_is_ended_from_outside_is_opened_in_another(
    decoder: Decoder, number: signal.Signals
) -> None:
    data = png()
    with decoder.open(data, probe(data), side=640) as picture:
        ((whole,), _) = picture.cut([IDENTITY], 32)
        first = decoder.pid
        assert first is not None
        os.kill(first, number)
        ((again,), _) = picture.cut([IDENTITY], 32)
        assert np.array_equal(again, whole)
        assert decoder.pid not in (None, first)
        assert picture.look(640).shape == picture.image.shape
    assert np.array_equal(opened(decoder, data), bgr(photo()))


def test_a_picture_whose_child_is_ended_twice_is_decoder_failed(decoder: Decoder) -> None:
    data = png()
    with decoder.open(data, probe(data), side=640) as picture:
        os.kill(decoder.pid or 0, signal.SIGKILL)
        picture.cut([IDENTITY], 32)
        os.kill(decoder.pid or 0, signal.SIGKILL)
        with pytest.raises(InvalidImage) as caught:
            picture.cut([IDENTITY], 32)
    assert caught.value.reason == "decoder_failed"
    assert np.array_equal(opened(decoder, data), bgr(photo()))


@pytest.mark.parametrize(
    ("number", "tries"), [(signal.SIGKILL, 2), (signal.SIGSEGV, 1), (signal.SIGXCPU, 1)]
)
def test_only_a_child_that_others_ended_gets_a_second_try(
    tmp_path: Path, number: signal.Signals, tries: int
) -> None:
    count = tmp_path / "tries"
    child = (
        "import os, sys; sys.stdin.buffer.read(8); "
        f"open({str(count)!r}, 'a').write('x'); os.kill(os.getpid(), {int(number)})"
    )
    decoder = Decoder(argv=(sys.executable, "-c", child))
    try:
        assert reason(decoder, png()) == "decoder_failed"
    finally:
        decoder.close()
    assert len(count.read_text()) == tries


def test_a_child_that_crashes_on_a_picture_is_decoder_failed() -> None:
    crash = "import os, sys; sys.stdin.buffer.read(8); os.kill(os.getpid(), 11)"
    decoder = Decoder(argv=(sys.executable, "-c", crash))
    try:
        assert reason(decoder, png()) == "decoder_failed"
        assert decoder.pid is None
    finally:
        decoder.close()


def test_a_child_that_hangs_is_killed_in_time() -> None:
    decoder = Decoder(argv=(sys.executable, "-c", "import time; time.sleep(60)"), wall_seconds=0.5)
    try:
        decoder.warm()
        hanging = decoder.pid
        began = time.monotonic()
        assert reason(decoder, png()) == "decoder_failed"
        assert time.monotonic() - began < 50  # not until it ends by itself
        assert decoder.pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(hanging or 0, 0)
    finally:
        decoder.close()


def test_a_child_that_talks_nonsense_is_decoder_failed() -> None:
    nonsense = "import sys; sys.stdout.buffer.write(b'\\1' + bytes(7) + b'x')"
    decoder = Decoder(argv=(sys.executable, "-c", nonsense), wall_seconds=60)
    try:
        assert reason(decoder, png()) == "decoder_failed"
    finally:
        decoder.close()


def test_the_child_is_confined_and_knows_no_secret(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://someone:secret@example")
    decoder.warm()
    os.kill(decoder.pid or 0, signal.SIGKILL)
    opened(decoder, png())
    with open(f"/proc/{decoder.pid}/environ", "rb") as file:
        assert b"secret" not in file.read()
    with open(f"/proc/{decoder.pid}/limits") as file:
        limits = {line[:26].strip(): line[26:].split()[0] for line in file}
    assert int(limits["Max address space"]) <= 512 * 2**20
    assert int(limits["Max cpu time"]) < 30
    assert limits["Max file size"] == "0"
    assert limits["Max core file size"] == "0"


def test_a_picture_that_was_closed_leaves_no_memory_behind(decoder: Decoder) -> None:
    def resident() -> int:
        with open(f"/proc/{decoder.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    opened(decoder, png())
    before = resident()
    for data in (png(photo(3000, 2000)), jpeg(photo(3000, 2000)), webp(photo(1500, 1000))):
        opened(decoder, data)
    assert resident() - before < 16 * 2**20


def test_beyond_the_line_callers_are_told_to_come_back() -> None:
    decoder = Decoder(waiting=1, patience=2)
    data, inside, leave = png(), threading.Event(), threading.Event()
    refused: list[str] = []

    def hold() -> None:
        with decoder.open(data, probe(data), side=64):
            inside.set()
            leave.wait(120)

    def wait_in_line() -> None:
        try:
            opened(decoder, data)
        except Busy as error:
            refused.append(error.code)

    holder = threading.Thread(target=hold)
    second = threading.Thread(target=wait_in_line)
    try:
        holder.start()
        assert inside.wait(60)
        second.start()
        while decoder.load < 2:
            time.sleep(0.005)
        with pytest.raises(Busy):
            opened(decoder, data)
        second.join(60)
        assert refused == ["busy"]  # patience ended
    finally:
        leave.set()
        holder.join(60)
        second.join(60)
        assert np.array_equal(opened(decoder, data), bgr(photo()))
        decoder.close()


def test_a_caller_that_goes_away_frees_its_place() -> None:
    decoder = Decoder(waiting=1, patience=30)
    data, inside, leave, gone = png(), threading.Event(), threading.Event(), threading.Event()
    cancelled: list[float] = []

    def hold() -> None:
        with decoder.open(data, probe(data), side=64):
            inside.set()
            leave.wait(120)

    def hang_up() -> None:
        try:
            with decoder.open(data, probe(data), side=64, cancelled=gone.is_set):
                raise AssertionError("it was let in")
        except Cancelled:
            cancelled.append(time.monotonic())

    holder, waiting = threading.Thread(target=hold), threading.Thread(target=hang_up)
    try:
        holder.start()
        assert inside.wait(60)
        waiting.start()
        while decoder.load < 2:
            time.sleep(0.005)
        began = time.monotonic()
        gone.set()
        waiting.join(60)
        assert cancelled
        assert cancelled[0] - began < 25  # its patience is 30
        assert decoder.load == 1
    finally:
        leave.set()
        holder.join(60)
        decoder.close()
