"""Writing encoder graphs: raw pixels in, unit vectors out, and the layers in between as they come.

Imports onnx, so only the making of models imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "crops", "embeddings"
SMALLEST_NORM = 1e-12


class GraphWriter:
    """Collects the nodes and constants of an encoder that takes crops of `size` px."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def tensor(self, name: str, values: npt.NDArray[Any]) -> str:
        """Adds a constant; returns its name."""
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, sources: list[str], output: str, **attributes: Any) -> str:
        """Adds a node named as its output; returns that name."""
        self._nodes.append(helper.make_node(op, sources, [output], name=output, **attributes))
        return output

    def pixels(self, output: str) -> str:
        """The image as float32 (n, 3, size, size), BGR, 0 to 255."""
        self.node("Cast", [INPUT], "pixels", to=TensorProto.FLOAT)
        return self.node("Transpose", ["pixels"], output, perm=[0, 3, 1, 2])

    def finish(self, last: str, dimensions: int) -> ModelProto:
        """The model whose output is `last`, (n, dimensions), divided by its length."""
        self.node("ReduceL2", [last], "norm", axes=[1], keepdims=1)
        smallest = self.tensor("smallest_norm", np.full(1, SMALLEST_NORM, np.float32))
        self.node("Max", ["norm", smallest], "divisor")
        self.node("Div", [last, "divisor"], OUTPUT)
        size = self._size
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", size, size, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", dimensions])],
            self._tensors,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="likeness",
        )
