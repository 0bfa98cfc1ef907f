"""Keras h5 -> ONNX, with everything that can be folded folded away.

Batch normalisation goes into the convolution or dense layer before it, a residual's scale into its
1x1 convolution, and the pixel normalisation together with BGR -> RGB into the first convolution,
exactly, since that one has no padding. What is left are convolutions, ReLU, pools, sums and one
matrix product. The graph takes crops (n, size, size, 3), BGR, uint8, and gives unit vectors
(n, dimensions), float32. Its bytes depend on the weights only, so that its SHA-256 can be known
beforehand: the folding is done in float64, element by element.

"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faces.errors import ModelFileError
from faces.models.cards import PIXEL_MEAN, PIXEL_SCALE
from faces.models.graphs import GraphWriter
from faces.models.layers import Layer, Network
from faces.models.weights import Weights, read

Float = npt.NDArray[np.float64]


def convert(source: Path, target: Path, *, size: int = 160) -> int:
    """Writes the ONNX form of the Keras file `source` to `target`; returns its dimensions.

    Raises ModelFileError when the file's network has something that cannot be carried over.
    """
    network, weights = read(source)
    model = to_onnx(network, weights, size=size)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


class _Linear:
    """A convolution (OIHW) or dense layer (OI) while layers behind it are folded into it."""

    def __init__(self, layer: Layer, kernel: Float, bias: Float) -> None:
        self.layer, self.kernel, self.bias = layer, kernel, bias

    def scale_outputs(self, factor: Float | float) -> None:
        self.bias = self.bias * factor
        shape = (-1,) + (1,) * (self.kernel.ndim - 1)
        self.kernel = self.kernel * np.reshape(np.broadcast_to(factor, self.bias.shape), shape)


def _linear(layer: Layer, arrays: Any) -> _Linear:
    kernel = np.asarray(arrays["kernel"], np.float64)
    kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    if kernel.shape[0] != layer.filters or (
        layer.kind == "conv" and kernel.shape[2:] != layer.window
    ):
        raise ModelFileError(f"The weights at the place of {layer.name} have another shape.")
    bias = np.asarray(arrays.get("bias", np.zeros(layer.filters)), np.float64)
    return _Linear(layer, kernel, bias)


def fold(network: Network, weights: Weights) -> tuple[dict[str, _Linear], dict[str, str]]:
    """The convolutions and dense layers with what follows folded in, and an alias for each layer
    that is gone: the name of the layer whose output now is its output."""
    linear: dict[str, _Linear] = {}
    alias: dict[str, str] = {}
    uses = Counter(name for layer in network.layers for name in layer.inputs)
    for layer in network.layers:
        source = alias.get(layer.inputs[0], layer.inputs[0]) if layer.inputs else ""
        if layer.kind in ("conv", "dense"):
            linear[layer.name] = _linear(layer, weights[layer.name])
        elif layer.kind == "pass":
            alias[layer.name] = source
        elif layer.kind in ("norm", "scale"):
            if source not in linear or uses[layer.inputs[0]] != 1:
                raise ModelFileError(f"Layer {layer.name} cannot be folded into the one before it.")
            into = linear[source]
            if layer.kind == "scale":
                into.scale_outputs(layer.scale)
            else:
                arrays = {k: v.astype(np.float64) for k, v in weights[layer.name].items()}
                factor = 1.0 / np.sqrt(arrays["moving_variance"] + layer.epsilon)
                factor = factor * arrays.get("gamma", 1.0)
                into.bias = into.bias - arrays["moving_mean"]
                into.scale_outputs(factor)
                into.bias = into.bias + arrays.get("beta", 0.0)
            alias[layer.name] = source
    return linear, alias


def _fold_pixels(first: _Linear) -> None:
    """Makes the first convolution take raw BGR pixels instead of normalised RGB."""
    if first.layer.same:
        raise ModelFileError("The first convolution is padded; pixel values cannot be folded in.")
    # Summed exactly: the order of adding must not show in the file's bytes.
    sums = np.array([math.fsum(kernel.ravel()) for kernel in first.kernel])
    first.bias = first.bias - sums * (PIXEL_MEAN / PIXEL_SCALE)
    first.kernel = first.kernel[:, ::-1] / PIXEL_SCALE


def to_onnx(network: Network, weights: Weights, *, size: int) -> Any:
    """The ONNX model of a network whose only input is an image of `size` px."""
    linear, alias = fold(network, weights)
    inputs = [layer.name for layer in network.layers if layer.kind == "input"]
    first = [x for x in linear.values() if x.layer.inputs[0] in inputs]
    if len(inputs) != 1 or len(first) != 1 or first[0].layer.kind != "conv":
        raise ModelFileError("The network does not begin with one convolution of one image.")
    _fold_pixels(first[0])

    writer = GraphWriter(size)
    tensor, node = writer.tensor, writer.node
    writer.pixels(inputs[0])
    for layer in network.layers:
        sources = [alias.get(name, name) for name in layer.inputs]
        if layer.kind == "conv":
            part = linear[layer.name]
            sources.append(tensor(f"{layer.name}/kernel", part.kernel.astype(np.float32)))
            sources.append(tensor(f"{layer.name}/bias", part.bias.astype(np.float32)))
            node(
                "Conv",
                sources,
                layer.name,
                kernel_shape=layer.window,
                strides=layer.strides,
                pads=_padding(layer),
            )
        elif layer.kind == "dense":
            part = linear[layer.name]
            sources.append(tensor(f"{layer.name}/kernel", part.kernel.astype(np.float32)))
            sources.append(tensor(f"{layer.name}/bias", part.bias.astype(np.float32)))
            node("Gemm", sources, layer.name, transB=1)
        elif layer.kind == "relu":
            node("Relu", sources, layer.name)
        elif layer.kind == "maxpool":
            node("MaxPool", sources, layer.name, kernel_shape=layer.window, strides=layer.strides)
        elif layer.kind == "concat":
            node("Concat", sources, layer.name, axis=1)
        elif layer.kind == "add":
            node("Add", sources, layer.name)
        elif layer.kind == "avgpool":
            node("GlobalAveragePool", sources, f"{layer.name}/mean")
            node("Flatten", [f"{layer.name}/mean"], layer.name)
    last = alias.get(network.output, network.output)
    if last not in linear or linear[last].layer.kind != "dense":
        raise ModelFileError("The network does not end with a dense layer.")
    return writer.finish(last, linear[last].layer.filters)


def _padding(layer: Layer) -> list[int]:
    """ONNX pads of a layer: `same` is symmetric here, as strides are 1 and windows odd."""
    if not layer.same:
        return [0, 0, 0, 0]
    rows, columns = layer.window
    if layer.strides != (1, 1) or rows % 2 == 0 or columns % 2 == 0:
        raise ModelFileError(f"The padding of {layer.name} is not symmetric; not supported.")
    return [rows // 2, columns // 2, rows // 2, columns // 2]
