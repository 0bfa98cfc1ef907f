"""Constants of graphs whose weights are stored in int8 blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]


def constants(graph: GraphProto) -> dict[str, npt.NDArray[Any]]:
    """Every constant of the graph by name, quantised ones dequantised and reshaped."""
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            quantised, scales, zero = (arrays[name] for name in node.input)
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
            arrays[node.output[0]] = dequantised(quantised, scales, zero, axis, block)
        elif node.op_type == "Reshape" and node.input[0] in arrays:
            shape = arrays[node.input[1]].tolist()
            arrays[node.output[0]] = arrays[node.input[0]].reshape(shape)
    return arrays


def dequantised(
    quantised: npt.NDArray[Any],
    scales: npt.NDArray[Any],
    zero: npt.NDArray[Any],
    axis: int,
    block: int,
) -> Floats:
    """`(quantised - zero) * scale`, each scale and zero standing for `block` values on `axis`."""
    axis = min(axis, quantised.ndim - 1)

    def spread(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if values.size == 1:
            return values.reshape(())
        repeated = np.repeat(values, block, axis=axis)
        return repeated.take(range(quantised.shape[axis]), axis=axis)

    centred = quantised.astype(np.int32) - spread(zero.astype(np.int32))
    weights: Floats = (centred * spread(scales)).astype(np.float32)
    return weights
