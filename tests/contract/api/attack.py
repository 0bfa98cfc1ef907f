"""Send every hostile input to a running service: `python -m tests.contract.api.attack [URL]`.

Without a URL it starts the embedded Atlas and a service of its own, and then also shows how much
memory the service took meanwhile. It prints a row for each attack and ends with status 1 when an
answer was wrong, came too late, cost too much memory, or the service did not live through it.
`make hostile` runs it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2

from bench.trees import Sampler
from tests.contract.api.attack_kinds import Attack, Target
from tests.contract.api.attacks import all_attacks

ROOT = Path(__file__).resolve().parents[3]
CAP_MIB = 440.0
MOST_SECONDS = 20.0
"""What ends at 10 s of its own accord has room here on a slow machine."""


def attack_all(target: Target, attacks: Sequence[Attack], sampler: Sampler | None) -> int:
    """Make the attacks one by one, print a row for each; how many were not answered rightly."""
    wrong = 0
    say(f"{'row':7}{'attack':46}{'answer':38}{'ms':>7}{'MiB':>6}")
    for attack in attacks:
        if sampler is not None:
            sampler.mark()
        began = time.monotonic()
        try:
            answer = attack.do(target)
            if not alive(target):
                answer += ", and then no answer to /healthz"
        except (OSError, httpx2.HTTPError, AssertionError) as error:
            answer = f"{type(error).__name__}: {error}"[:60]
        seconds = time.monotonic() - began
        while sampler is not None and not sampler.peak and alive(target):
            time.sleep(0.02)  # it was over between two samples
        memory = sampler.peak if sampler is not None else 0.0
        faults = [
            fault
            for fault, there in {
                f"right would be {' or '.join(attack.right)}": answer not in attack.right,
                f"took more than {MOST_SECONDS:g} s": seconds > MOST_SECONDS,
                f"took more than {CAP_MIB:g} MiB": memory > CAP_MIB,
            }.items()
            if there
        ]
        wrong += bool(faults)
        size = f"{memory:6.0f}" if memory else f"{'-':>6}"
        what = attack.what if len(attack.what) <= 44 else attack.what[:43] + "…"
        row = f"{attack.row:7}{what:46}{answer:38}{seconds * 1000:7.0f}{size}"
        say(row + "".join(f"  WRONG: {fault}" for fault in faults))
    return wrong


def say(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def alive(target: Target) -> bool:
    """Whether the service still answers."""
    with target.client() as client:
        return client.get("/healthz").status_code == 200


def look(url: str, key: str, photo: bytes) -> Target:
    """The target behind a URL; its active model tells how long vectors are."""
    with httpx2.Client(base_url=url, headers={"x-api-key": key}, trust_env=False) as client:
        models = client.get("/v1/models").raise_for_status().json()["items"]
    active = next(model for model in models if model["active"])
    return Target(url, key, photo, active["dimensions"])


def main() -> int:
    from app.keys import entry
    from tests.conftest import Atlas
    from tests.contract.api.conftest import launch, stop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="a running service; default: start one")
    parser.add_argument("--key", default="", help="a key of that service, of the role admin")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="attacks with this in their name"
    )
    options = parser.parse_args()
    attacks = [attack for attack in all_attacks() if options.only in attack.what]
    photo = next((ROOT / "var/samples/probes").glob("*/*")).read_bytes()
    if options.url:
        wrong = attack_all(look(options.url.rstrip("/"), options.key, photo), attacks, None)
        return verdict(len(attacks), wrong, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atlas = Atlas(folder / "atlas")
        database = f"attack_{secrets.token_hex(4)}"
        env = {"MONGODB_URI": atlas.uri, "MONGODB_DATABASE": database}
        try:
            subprocess.run(
                [sys.executable, "-m", "migrations", "up", "--wait"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "FACE_MODEL": "facenet128", **env},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            key = secrets.token_urlsafe(16)
            limits = {"RATE_LIMIT_PER_KEY": "", "RATE_LIMIT_PER_ADDRESS": ""}
            env |= {"API_KEYS": entry("attacker", "admin", key), **limits}
            service = launch(folder / "web.log", env, wait="/readyz")
            sampler = Sampler(service.process.pid, period=0.05)
            try:
                wrong = attack_all(look(service.url, key, photo), attacks, sampler)
            finally:
                sampler.close()
                stop(service.process)
            log = (folder / "web.log").read_text()
            return verdict(len(attacks), wrong, log.count('"unexpected_error"'))
        finally:
            atlas.stop()


def verdict(count: int, wrong: int, unexpected: int) -> int:
    """The exit status, told in a sentence."""
    if wrong or unexpected:
        say(
            f"{wrong} of {count} attacks were not answered as they should be, and the log holds "
            f"{unexpected} unexpected error(s): the rows above say which."
        )
        return 1
    say(f"All {count} attacks were answered as they should be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
