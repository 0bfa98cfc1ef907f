"""The production model's size and memory where its published weights cannot be had.

A file with the network of `facenet512` is made from the registry's 128-d one, which differs in its
last layer only, with a random last layer. Its vectors mean nothing; its bytes and its work do.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import dynos
from bench import slug as slugs
from bench.dyno_load import Client
from faces.models import cards, files

KEY = "facenet512"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the file and a web dyno with it take."""

    file_mib: float
    ready_s: float
    idle_mib: float
    peak_mib: float


def measure(folder: Path, variables: Mapping[str, str], models: Path) -> Measured:
    """Runs release and web of the slug with the stand-in, and searches with every probe."""
    made = stand_in(models, folder / "var" / "models")
    own = {**variables, "FACE_MODEL": KEY, "MONGODB_DATABASE": "likeness512"}
    procfile = dynos.procfile(folder)
    dynos.release(folder, procfile["release"], own)
    port = dynos.free_port()
    began = time.monotonic()
    with dynos.dyno(folder, "web", procfile["web"], {**own, "PORT": str(port)}) as web:
        client = Client(port, own["API_KEY"])
        client.wait_for("/readyz", 60, web.process)
        ready = time.monotonic() - began
        time.sleep(2)
        web.sampler.mark()
        time.sleep(3)
        idle = web.sampler.level
        web.sampler.mark()
        for probe in sorted((slugs.ROOT / "var/samples/probes").rglob("*.jpg")):
            client.search(probe.read_bytes())
        return Measured(made.stat().st_size / 2**20, ready, idle, web.sampler.peak)


def stand_in(models: Path, target: Path) -> Path:
    """The file of `facenet512` in the folder `target`, made from the 128-d model in `models`."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    card = cards.card(KEY)
    model = onnx.load(str(files.encoder_path(models, "facenet128")))
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    random = np.random.default_rng(512)
    for tensor in model.graph.initializer:
        if tensor.name in gemm.input:
            shape = (card.dimensions, *tensor.dims[1:])
            values = random.standard_normal(shape).astype(np.float32) * np.float32(0.02)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = card.dimensions
    file = files.encoder_path(target, KEY)
    content = model.SerializeToString()
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    files.write_record(
        file,
        files.BuildRecord(
            KEY, len(content), digest, card.made_from, card.recipe, files.RECIPE_VERSION
        ),
    )
    return file
