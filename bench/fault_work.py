"""What a client and an operator do while something breaks, and besides."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from bench.fault_ledger import Client
from bench.fault_system import Wrong


def some_work(client: Client, chance: random.Random) -> None:
    """Uploads at once, then one repeated and one deleted."""
    photos = sorted(client.photos)
    keys = [f"own-{number}" for number in range(6)]
    chosen = [(key, chance.choice(photos)) for key in chance.sample(keys, 3)]
    with ThreadPoolExecutor(len(chosen)) as threads:
        list(threads.map(lambda pair: client.put(*pair), chosen))
    known = sorted(key for key in client.items if client.items[key].sure)
    if known:
        key = chance.choice(known)
        again = client.items[key].sure
        assert again is not None
        client.put(key, again)
        client.delete(chance.choice(known))


def other_listing(client: Client, chance: random.Random, size: int = 10) -> None:
    """The CMS holds other pictures than before, most of them the same."""
    photos = sorted(client.photos)
    listed = dict(client.system.listed)
    for _ in range(3):
        listed[f"cms-{chance.randrange(size)}"] = chance.choice(photos)
    if len(listed) > size // 2:
        del listed[chance.choice(sorted(listed))]
    client.system.list(listed, client.photos)


def fresh_listing(client: Client, chance: random.Random, size: int = 10) -> None:
    """The CMS holds another photo in every place: everything is fetched and embedded again."""
    photos = sorted(client.photos)
    listed = {}
    for number in range(size):
        key = f"cms-{number}"
        listed[key] = chance.choice([p for p in photos if p != client.system.listed.get(key)])
    client.system.list(listed, client.photos)


def nothing(client: Client, chance: random.Random) -> None:
    """Everything once, without a fault."""
    for key in ("own-0", "own-1", "own-2"):
        if not client.put(key, chance.choice(sorted(client.photos))):
            raise Wrong("an upload failed without a fault")
    some_work(client, chance)
    person(client, chance)
    fresh_listing(client, chance)
    client.backfill()


def person(client: Client, chance: random.Random, *, waits: bool = True) -> str | None:
    """Names a face and erases the person; the erasing job. When it `waits` for that, it
    then tries to bring the face back."""
    key = f"person-{len(client.items)}"
    photo = chance.choice(sorted(client.photos))
    subject = f"s-{key}"
    if not client.put(key, photo) or not client.name(subject, key):
        return None
    job = client.erase(subject)
    if job is not None and waits:
        client.wait(job)
        client.put(key, photo)
    return job
