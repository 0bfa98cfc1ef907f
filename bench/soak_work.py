"""What the clients of the soak do, at a steady pace."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import httpx2

from bench.crowd import Crowd, Manners
from bench.fault_ledger import BASE, Client, Item
from bench.fault_system import Wrong
from bench.soak_hostile import REFUSED, hostile

WRITERS = 2
ITEMS = 12
"""Own items of each writing client: with the CMS's, fewer faces than one search can list."""
LISTED = 30
HOSTILE = "hostile"
READS = ("/v1/models", "/v1/jobs", f"{BASE}/faces", f"{BASE}/media", f"{BASE}/subjects",
         "/readyz", "/metrics", "/healthz", "/v1/collections")  # fmt: skip


class Work:
    """Writing clients on threads of their own; every operation goes through the ledger."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self.wrong: list[str] = []
        self._client = client
        client.items[HOSTILE] = Item()  # is never to stay
        self._stop = threading.Event()
        self._threads = [
            *(self._thread(chance.random(), 0.8, self._write, n) for n in range(WRITERS)),
            self._thread(chance.random(), 10.0, self._person, 0),
            self._thread(chance.random(), 45.0, self._backfill, 0),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Stop, and wait until the last operation is over."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _thread(
        self, seed: float, every: float, act: Callable[[random.Random, int, int], None], number: int
    ) -> threading.Thread:
        def run() -> None:
            chance, turn = random.Random(seed), 0
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    act(chance, number, turn)
                except Wrong as error:
                    self.wrong.append(str(error))
                    return
                turn += 1
                self._stop.wait(max(0.0, every - (time.monotonic() - began)))

        return threading.Thread(target=run, daemon=True)

    def _write(self, chance: random.Random, number: int, turn: int) -> None:
        """Put, put again, replace or delete one of the client's own items."""
        client, media_id = self._client, f"own-{number}-{chance.randrange(ITEMS)}"
        item = client.items.get(media_id)
        if item is not None and item.sure and chance.random() < 0.3:
            client.delete(media_id)
        elif item is not None and item.sure and chance.random() < 0.3:
            client.put(media_id, item.sure)
        else:
            client.put(media_id, chance.choice(sorted(client.photos)))

    def _person(self, chance: random.Random, number: int, turn: int) -> None:
        """Name a face, erase the person, try to bring the face back, delete the picture."""
        client, key, subject = self._client, f"person-{turn}", f"s-{turn}"
        photo = chance.choice(sorted(client.photos))
        if not client.put(key, photo) or not client.name(subject, key):
            return
        if (job := client.erase(subject)) is not None:
            client.wait(job)
            client.put(key, photo)
            client.delete(key)

    def _backfill(self, chance: random.Random, number: int, turn: int) -> None:
        """Another listing of the CMS, a few pictures changed, one gone; every fifth time all."""
        client, names = self._client, sorted(self._client.photos)
        listed = dict(client.system.listed)
        for key in [f"cms-{n}" for n in range(LISTED)]:
            if not turn % 5 or chance.random() < 0.1:
                listed[key] = chance.choice([name for name in names if name != listed.get(key)])
        del listed[chance.choice(sorted(listed))]
        client.system.list(listed, client.photos)
        client.backfill()


def start_searches(
    crowd: Crowd, photos: Sequence[bytes], known: Sequence[list[float]], chance: random.Random
) -> None:
    """Start the clients that search, read, and send hostile pictures."""
    files = [{"image": ("p.jpg", photo)} for photo in photos]

    def by_photo(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.post("/v1/search", files=files[turn // 100 % len(files)])

    def by_vector(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.post("/v1/search", json={"vector": known[turn // 100 % len(known)]})

    def read(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.get(READS[turn // 100 % len(READS)])

    def attack(http: httpx2.Client, turn: int) -> httpx2.Response:
        picture = {"image": ("p.jpg", hostile(chance.choice(photos), chance))}
        if turn // 100 % 2:
            return http.post("/v1/search", files=picture)
        answer = http.put(f"{BASE}/media/{HOSTILE}", files=picture)
        if answer.is_success:  # it was not that bad: nobody's ledger may find it
            return http.delete(f"{BASE}/media/{HOSTILE}")
        return answer

    crowd.start("search by photo", 1, by_photo, Manners(every=0.5))
    crowd.start("search by vector", 1, by_vector, Manners(every=0.25))
    crowd.start("read", 1, read, Manners(every=0.5))
    crowd.start("hostile picture", 1, attack, Manners(every=8.0, right=REFUSED))
