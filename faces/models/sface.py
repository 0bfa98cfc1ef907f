"""SFace's published file -> a graph that runs well: `convert(bytes) -> bytes`.

The file holds its weights in int8 blocks that ONNX Runtime would dequantise at every run, and lists
its constants as inputs. Here they are dequantised once, batch normalisation is folded away as in
`convert`, and the graph takes crops (n, 112, 112, 3) BGR uint8 and gives unit vectors. The first
convolution is padded, in normalised pixels with zeros: the same as raw pixels padded with the mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, helper

from faces.errors import ModelFileError
from faces.models.blocks import constants
from faces.models.cards import PIXEL_MEAN, PIXEL_SCALE
from faces.models.graphs import GraphWriter

Float = npt.NDArray[np.float64]
SIZE = 112


def convert(source: bytes) -> bytes:
    """The encoder's ONNX file; raises ModelFileError when the source is not the SFace network."""
    try:
        graph = onnx.load_from_string(source).graph
        model = _Chain(graph).model()
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise ModelFileError("The file is not the SFace network.") from error
    made: bytes = model.SerializeToString(deterministic=True)
    return made


class _Chain:
    """The network is one chain: each node reads the one before."""

    def __init__(self, graph: GraphProto) -> None:
        held = constants(graph)
        self._constants = {name: np.asarray(values, np.float64) for name, values in held.items()}
        self._nodes = [n for n in graph.node if n.output[0] not in self._constants]
        self._writer = GraphWriter(SIZE)

    def model(self) -> onnx.ModelProto:
        nodes = [n for n in self._nodes if n.op_type not in ("Constant", "Dropout")]
        ops = [node.op_type for node in nodes]
        if ops[:2] != ["Sub", "Mul"] or ops[-4:] != [
            "BatchNormalization",
            "Flatten",
            "Gemm",
            "BatchNormalization",
        ]:
            raise ValueError("another network")
        last = self._writer.pixels("image")
        for index in range(2, len(nodes) - 4, 3):
            conv, norm, activation = nodes[index : index + 3]
            last = self._convolution(conv, norm, activation, last, first=index == 2)
        return self._head(nodes[-4], nodes[-2], nodes[-1], last)

    def _affine(self, node: NodeProto) -> tuple[Float, Float]:
        """A batch normalisation as factor and summand of each channel."""
        gamma, beta, mean, variance = (self._constants[name] for name in node.input[1:])
        epsilon = helper.get_attribute_value(next(a for a in node.attribute if a.name == "epsilon"))
        factor = gamma / np.sqrt(variance + epsilon)
        return factor, beta - mean * factor

    def _convolution(
        self, conv: NodeProto, norm: NodeProto, activation: NodeProto, source: str, *, first: bool
    ) -> str:
        if [conv.op_type, norm.op_type, activation.op_type] != [
            "Conv",
            "BatchNormalization",
            "PRelu",
        ]:
            raise ValueError("another network")
        write, name = self._writer, conv.output[0]
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
        factor, bias = self._affine(norm)
        kernel = self._constants[conv.input[1]] * factor.reshape(-1, 1, 1, 1)
        if first:
            pads = attributes["pads"]
            sides = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            mean = write.tensor("mean", np.asarray(PIXEL_MEAN, np.float32))
            source = write.node("Pad", [source, write.tensor("pads", sides), mean], "padded")
            attributes["pads"] = [0, 0, 0, 0]
            # Summed exactly: the order of adding must not show in the file's bytes.
            sums = np.array([math.fsum(row.ravel()) for row in kernel])
            bias = bias - sums * (PIXEL_MEAN / PIXEL_SCALE)
            kernel = kernel[:, ::-1] / PIXEL_SCALE
        inputs = [
            source,
            write.tensor(f"{name}/kernel", kernel.astype(np.float32)),
            write.tensor(f"{name}/bias", bias.astype(np.float32)),
        ]
        kept = {k: attributes[k] for k in ("group", "kernel_shape", "pads", "strides")}
        write.node("Conv", inputs, name, **kept)
        slope = self._constants[activation.input[1]]
        return self._activation(name, slope, activation.output[0])

    def _activation(self, source: str, slope: Float, output: str) -> str:
        """PReLU as `slope x + (1 - slope) relu(x)`: the runtime has fast kernels for these parts
        and a slow one for the whole (7 ms against 20 for the network)."""
        write = self._writer
        falling = write.tensor(f"{source}/slope", slope.astype(np.float32))
        rising = write.tensor(f"{source}/rest", (1.0 - slope).astype(np.float32))
        write.node("Relu", [source], f"{source}/relu")
        write.node("Mul", [source, falling], f"{source}/low")
        write.node("Mul", [f"{source}/relu", rising], f"{source}/high")
        return write.node("Add", [f"{source}/low", f"{source}/high"], output)

    def _head(
        self, norm: NodeProto, gemm: NodeProto, last: NodeProto, source: str
    ) -> onnx.ModelProto:
        """The normalisations on both sides of the matrix product go into it."""
        weights, bias = (self._constants[name] for name in gemm.input[1:])
        before, shift = self._affine(norm)
        area = weights.shape[1] // len(before)
        shifts = np.repeat(shift, area)
        bias = bias + np.array([math.fsum(row) for row in weights * shifts])
        weights = weights * np.repeat(before, area)
        factor, summand = self._affine(last)
        weights, bias = weights * factor[:, None], bias * factor + summand
        write = self._writer
        flat = write.node("Flatten", [source], "flat")
        inputs = [
            flat,
            write.tensor("head/kernel", weights.astype(np.float32)),
            write.tensor("head/bias", bias.astype(np.float32)),
        ]
        return write.finish(write.node("Gemm", inputs, "head", transB=1), len(bias))
