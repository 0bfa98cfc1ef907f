"""The decoder's child and its parent, as processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from faces.decoder import Decoder
from faces.image import probe
from tests import hostile
from tests.alive import alive, gone

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from faces.decoder import Decoder
from faces.image import probe
data = sys.stdin.buffer.read()
decoder = Decoder()
with decoder.open(data, probe(data), side=64):
    print(decoder.pid, flush=True)
    time.sleep(60)
"""


def test_the_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        parent.stdin.write(hostile.jpeg())
        parent.stdin.close()
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert gone(child)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_the_child_outlives_the_thread_that_asked_for_it() -> None:
    decoder = Decoder()
    data = hostile.png()
    try:
        first = threading.Thread(target=decoder.warm)
        first.start()
        first.join()
        child = decoder.pid
        time.sleep(0.2)
        with decoder.open(data, probe(data), side=64):
            assert decoder.pid == child
    finally:
        decoder.close()
    assert child is not None
    assert gone(child, within=0)
