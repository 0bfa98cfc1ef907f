"""Photos of several threads in shared requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from faces.errors import EncoderUnavailable, InvalidImage, LikenessError
from faces.types import Analysis, Picture
from indexer.gather import Gather


def analysis(data: bytes) -> Analysis:
    return Analysis(Picture(1, 1, data.hex()), (), "m", "b", {})


class Service:
    """Answers each photo with its own bytes; keeps what came together."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, photos: Sequence[bytes]) -> list[Analysis | LikenessError]:
        self.groups.append(list(photos))
        assert self.open.wait(60)
        if b"away" in photos:
            raise EncoderUnavailable
        return [InvalidImage("truncated") if data == b"bad" else analysis(data) for data in photos]


def test_what_comes_while_a_request_is_under_way_travels_together_and_gets_its_own_answer() -> None:
    service = Service()
    gather = Gather(service, most=8, most_bytes=100, lanes=1, linger=0.0)
    service.open.clear()
    photos = [bytes([number]) for number in range(17)]
    with ThreadPoolExecutor(len(photos)) as pool:
        asked = [pool.submit(gather.analyse, data) for data in photos]
        while not service.groups or gather.waiting < len(photos) - len(service.groups[0]):
            time.sleep(0.005)
        service.open.set()
        found = [future.result(10).picture.sha256 for future in asked]
    assert found == [data.hex() for data in photos]
    assert len(service.groups) <= 4
    assert max(map(len, service.groups)) == 8


def test_a_request_holds_no_more_bytes_than_it_may_and_a_large_photo_goes_alone() -> None:
    service = Service()
    gather = Gather(service, most=8, most_bytes=10, lanes=1, linger=0.2)
    photos = [b"x" * 30, b"a" * 4, b"b" * 4, b"c" * 4]
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(gather.analyse, photos))) == 4
    assert all(len(group) == 1 or sum(map(len, group)) <= 10 for group in service.groups)
    assert len(service.groups) == 3


def test_a_photo_s_own_error_is_its_own_and_a_lost_request_is_everybody_s() -> None:
    gather = Gather(Service(), most=2, most_bytes=100, linger=5.0)
    with ThreadPoolExecutor(2) as pool:
        bad, good = pool.submit(gather.analyse, b"bad"), pool.submit(gather.analyse, b"good")
        with pytest.raises(InvalidImage):
            bad.result(10)
        assert good.result(10).picture.sha256 == b"good".hex()
        lost = [pool.submit(gather.analyse, data) for data in (b"away", b"other")]
        for future in lost:
            with pytest.raises(EncoderUnavailable):
                future.result(10)
