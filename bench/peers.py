"""The peers of the encoder, run one by one in `.venv-peers`, if that is there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.report import say
from faces.models import files

FP32 = (
    "facenet-pytorch eager",
    "facenet-pytorch jit",
    "keras predict",
    "keras function",
    "cv2.dnn",
    "openvino fp32",
)
INT8 = ("openvino int8",)
ENVIRONMENT = Path(".venv-peers")
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Timing:
    """A peer's milliseconds a face and peak memory; `failure` says why there are none."""

    peer: str
    threads: int
    batch1: float = 0.0
    batch8: float = 0.0
    peak_mb: float = 0.0
    failure: str = ""


def available() -> bool:
    """Whether `make bench-peers` has made their environment."""
    return (ENVIRONMENT / "bin" / "python").exists()


def prepare(models_dir: Path, crops: npt.NDArray[np.uint8], work: Path) -> None:
    """Puts what the peers read into the folder `work`."""
    np.save(work / "crops.npy", crops)
    for key in ("facenet128", "facenet128-int8"):
        path = files.encoder_path(models_dir, key)
        (work / path.name).symlink_to(path.resolve())
    source = files.source_path(models_dir, "facenet_keras.h5")
    (work / "facenet_keras.h5").symlink_to(source.resolve())
    _with_float_input(files.encoder_path(models_dir, "facenet128"), work / "facenet128-float.onnx")


def _with_float_input(path: Path, target: Path) -> None:
    """The network without its first two nodes: float32 planes in."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    planes = graph.node[1].output[0]
    size = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    del graph.node[:2], graph.input[:]
    graph.input.append(
        onnx.helper.make_tensor_value_info(planes, onnx.TensorProto.FLOAT, ["n", 3, size, size])
    )
    onnx.save(model, str(target))


def run(peers: Sequence[str], threads: int, work: Path) -> Iterator[Timing]:
    """Times each peer in a process of its own."""
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    python = str((ENVIRONMENT / "bin" / "python").absolute())
    script = str(Path(__file__).with_name("peer_run.py").resolve())
    for peer in peers:
        say(f"{peer}, {threads} thread(s)")
        try:
            done = subprocess.run(
                [python, script, peer, str(threads), str(work)],
                env=environ,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            yield Timing(peer, threads, found["batch1"], found["batch8"], found["peak_mb"])
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            yield Timing(peer, threads, failure=lines[-1][:120] if lines else "it failed")
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            yield Timing(peer, threads, failure=type(error).__name__)
