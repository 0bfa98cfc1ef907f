"""What threads leave behind in the C heap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Threads that allocate at the same time each get a heap where they may; count those in the maps.
THREADS = """
import ctypes, re, sys, threading
from faces.memory import keep_one_heap
if sys.argv[1] == "one":
    keep_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    for _ in range(100):
        libc.malloc(64 * 1024)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
libc.malloc_stats()
"""


def test_threads_share_one_heap_when_told_to() -> None:
    def heaps(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", THREADS, how],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stderr.count("Arena ")

    assert heaps("many") > 1, "nothing to prevent here"
    assert heaps("one") == 1
