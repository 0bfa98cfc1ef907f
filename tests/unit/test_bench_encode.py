"""The encoder's table compares like with like and says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import encode, peers
from bench.limits import peak
from bench.peers import Timing

PEERS = [
    Timing("openvino fp32", 1, batch1=30.0, batch8=29.0),
    Timing("openvino int8", 1, batch1=9.0, batch8=8.0),
    Timing("keras predict", 1, batch1=100.0, batch8=40.0),
    Timing("facenet-pytorch eager", 1, failure="it could not be installed"),
    Timing("openvino int8", 2, batch1=1.0, batch8=1.0),
]


def test_a_float_model_competes_with_float_peers_on_as_many_threads() -> None:
    row = encode._row("facenet128", 1, 1, 15.0, PEERS, rate=200.0)
    assert (row.peer, row.peer_name) == (30.0, "openvino fp32")
    assert row.peer_ratio == 2.0
    assert row.limit == pytest.approx(14.17)
    assert row.limit_ratio == pytest.approx(0.945, abs=0.001)


def test_an_int8_model_competes_with_every_peer_and_says_how_far_it_is_from_its_goal() -> None:
    row = encode._row("facenet128-int8", 1, 8, 6.0, PEERS, rate=1000.0)
    assert (row.peer, row.peer_name) == (8.0, "openvino int8")
    assert row.met is False
    assert "28% of the peak short of the goal" in row.note
    assert encode._row("facenet128-int8", 1, 8, 3.0, PEERS, rate=1000.0).note == ""


def test_without_peers_the_table_says_so() -> None:
    row = encode._row("facenet128", 1, 1, 15.0, [], rate=200.0)
    assert row.peer is None
    assert "make bench-peers" in row.note


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_machines_limit_is_measured(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.limits.BUDGET_S", 0.1)
    assert 1 < peak(kind, 1) < 100_000


def test_a_peer_that_fails_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'No module named openvino' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    assert peers.available()
    (timing,) = peers.run(["openvino fp32"], 1, tmp_path)
    assert timing.failure == "No module named openvino"


def test_peers_get_the_files_that_they_read(models_dir: Path, tmp_path: Path) -> None:
    crops = np.zeros((2, 160, 160, 3), np.uint8)
    peers.prepare(models_dir, crops, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "crops.npy",
        "facenet128-float.onnx",
        "facenet128-int8.onnx",
        "facenet128.onnx",
        "facenet_keras.h5",
    ]
