"""Encoding: milliseconds a face beside the peers and the machine's limit, load time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench import peers
from bench.crops import crops_of, photos_in
from bench.limits import peak
from bench.report import Row, say
from faces.encode import OnnxEncoder
from faces.models import files
from faces.models.cards import card
from faces.sessions import open_session
from faces.settings import load

GIGAFLOP = {
    "facenet512": 2.835,
    "facenet128": 2.834,
    "facenet128-int8": 2.834,
    "sface": 1.148,
    "sface-int8": 1.148,
}
"""A face's multiplications and additions, summed over the convolutions and the dense layer."""
BUDGET_S = 1.5
GOAL_OF_PEAK = 0.75
TRIED = (
    "tried: sibling 1x1 convolutions merged, uint8 or int8 on both sides, dynamic scales, batches"
    " above 8: none is faster"
)
GOAL_LOAD_S = 0.2
GOAL_TIMES_PYTORCH = 8.0


def milliseconds(encoder: OnnxEncoder, crops: npt.NDArray[np.uint8]) -> float:
    """The milliseconds a face of encoding these crops together, the fastest of many runs.

    The fastest, here, for the peers and for the limits: what else the machine does slows the rest.
    """
    for _ in range(3):
        encoder.encode(crops)
    best, until = np.inf, time.perf_counter() + BUDGET_S
    while time.perf_counter() < until:
        start = time.perf_counter()
        encoder.encode(crops)
        best = min(best, time.perf_counter() - start)
    return float(best) / len(crops) * 1e3


def rows() -> Iterator[Row]:
    """Every figure of the encoder."""
    settings = load()
    models_dir = settings.models_path
    here = [key for key in GIGAFLOP if files.encoder_path(models_dir, key).is_file()]
    if "facenet128-int8" not in here:
        raise SystemExit("run `python -m faces.models fetch facenet128 facenet128-int8 --samples`")
    crops = _crops(models_dir, settings.var_dir / "samples", "facenet128-int8")
    found = _peers(models_dir, crops) if peers.available() else []
    if not found:
        say("no peers here: `make bench-peers` installs and measures them")
    eager: dict[tuple[int, int], float] = {}
    for timing in found:
        if timing.failure:
            note = f"missing: {timing.failure}"
            yield Row(f"peer {timing.peer}, {timing.threads} thread(s)", 0, "ms/face", note=note)
            continue
        for batch, value in ((1, timing.batch1), (8, timing.batch8)):
            name = f"peer {timing.peer}, batch {batch}, {timing.threads} thread(s)"
            yield Row(name, value, "ms/face", note=f"peak RSS {timing.peak_mb:.0f} MB")
            if timing.peer == "facenet-pytorch eager":
                eager[timing.threads, batch] = value
    for threads in (1, 2):
        rates = {kind: peak(kind, threads) for kind in ("float32", "int8")}
        for kind, rate in rates.items():
            name = f"peak {kind} matrix product, {threads} thread(s)"
            yield Row(name, rate, "Gop/s", better="higher")
        for key in here:
            kind = "int8" if key.endswith("int8") else "float32"
            model = card(key)
            session = open_session(files.encoder_path(models_dir, key), threads=threads)
            encoder = OnnxEncoder(session, model, "")
            given = crops if model.input_size == 160 else np.ascontiguousarray(crops[:, :112, :112])
            for batch in (1, 8):
                yield _row(
                    key, threads, batch, milliseconds(encoder, given[:batch]), found, rates[kind]
                )
                if key == "facenet128-int8" and (threads, batch) in eager:
                    yield _against_pytorch(encoder, given[:batch], eager[threads, batch], threads)
    for key in here:
        yield from _footprint(key)


def _row(
    key: str, threads: int, batch: int, value: float, found: list[peers.Timing], rate: float
) -> Row:
    limit = GIGAFLOP[key] / rate * 1e3
    rivals = [
        (timing.batch1 if batch == 1 else timing.batch8, timing.peer)
        for timing in found
        if not timing.failure and timing.threads == threads and key.startswith("facenet128")
        # A fp32 model competes with fp32 peers only, an int8 one with all.
        if key.endswith("int8") or timing.peer in peers.FP32
    ]
    peer, peer_name = min(rivals) if rivals else (None, None)
    return Row(
        f"encode {key}, batch {batch}, {threads} thread(s)",
        value,
        "ms/face",
        peer=peer,
        peer_name=peer_name,
        limit=limit,
        limit_name="int8 peak" if key.endswith("int8") else "FMA peak",
        goal=limit / GOAL_OF_PEAK if key == "facenet128-int8" else None,
        note="; ".join(_notes(key, batch, bool(rivals), limit / value)),
    )


def _notes(key: str, batch: int, rivals: bool, share: float) -> Iterator[str]:
    if key.startswith("facenet128") and not rivals:
        yield "peers missing: make bench-peers"
    if key == "facenet128-int8" and share < GOAL_OF_PEAK:
        yield f"{GOAL_OF_PEAK - share:.0%} of the peak short of the goal; {TRIED}"
        if batch == 1:
            yield "one face alone reads all 23 MB of weights for layers of 3x3 and 8x8 pixels"


def _against_pytorch(
    encoder: OnnxEncoder, crops: npt.NDArray[np.uint8], eager: float, threads: int
) -> Row:
    return Row(
        f"int8 against facenet-pytorch, batch {len(crops)}, {threads} thread(s)",
        eager / milliseconds(encoder, crops),
        "times",
        better="higher",
        goal=GOAL_TIMES_PYTORCH,
    )


def _crops(models_dir: Path, samples: Path, key: str) -> npt.NDArray[np.uint8]:
    photos = photos_in(samples / "gallery")[:8]
    found = [face.crop for face in crops_of(models_dir, card(key), photos)]
    return np.stack([crop for crop in found if crop is not None])


def _peers(models_dir: Path, crops: npt.NDArray[np.uint8]) -> list[peers.Timing]:
    with tempfile.TemporaryDirectory() as folder:
        peers.prepare(models_dir, crops, Path(folder))
        return [
            timing
            for threads in (1, 2)
            for timing in peers.run((*peers.FP32, *peers.INT8), threads, Path(folder))
        ]


FOOTPRINT = """
import json, sys, time
from pathlib import Path
import numpy as np, onnxruntime
from faces.sessions import open_session
def pss():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
before, start = pss(), time.perf_counter()
session = open_session(Path(sys.argv[1]))
taken = time.perf_counter() - start
size = int(sys.argv[2])
session.run({session.inputs[0]: np.zeros((4, size, size, 3), np.uint8)})
print(json.dumps([taken, pss() - before, pss()]))
"""


def _footprint(key: str) -> Iterator[Row]:
    """Load time and memory in a fresh process, the model's optimised form being there."""
    model = card(key)
    path = files.encoder_path(load().models_path, key)
    command = [sys.executable, "-c", FOOTPRINT, str(path), str(model.input_size)]
    taken, grown, whole = 0.0, 0.0, 0.0
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken, grown, whole = json.loads(done.stdout)
    yield Row(f"load {key}", taken, "s", goal=GOAL_LOAD_S)
    note = f"the whole process {whole:.0f} MB; what is mapped from disk counts"
    yield Row(f"memory {key}, loaded and used", grown, "MB PSS", note=note)
