"""What this machine can do at best: multiply-add rates of float32 and int8, by measurement."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from faces.sessions import open_session

SIDE = 1024
BUDGET_S = 1.0


def peak(kind: str, threads: int) -> float:
    """Billions of operations a second (two a multiply-add) of the runtime's own matrix product.

    `kind` is "float32" or "int8" (uint8 times int8, int32 sums, as in a quantised convolution).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    if kind == "float32":
        held, element, op = random.random((SIDE, SIDE), np.float32), TensorProto.FLOAT, "MatMul"
        given = random.random((SIDE, SIDE), np.float32)
        output = TensorProto.FLOAT
    else:
        held = random.integers(-64, 65, (SIDE, SIDE), np.int8)
        element, op, output = TensorProto.UINT8, "MatMulInteger", TensorProto.INT32
        given = random.integers(0, 256, (SIDE, SIDE), np.uint8)
    shape = [SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node(op, ["given", "held"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("given", element, shape)],
        [helper.make_tensor_value_info("product", output, shape)],
        [numpy_helper.from_array(held, "held")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.onnx"
        onnx.save(model, str(path))
        session = open_session(path, threads=threads)
    best, until = np.inf, time.perf_counter() + BUDGET_S
    while time.perf_counter() < until:
        start = time.perf_counter()
        session.run({"given": given})
        best = min(best, time.perf_counter() - start)
    return float(2 * SIDE**3 / best / 1e9)
