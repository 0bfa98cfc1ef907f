"""A network computed layer by layer with numpy, nothing folded: what converted files are held to.

Slow (about half a second a face) and exact (float64). It shares the reading of the file with the
converter and nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from faces.models.layers import Layer, Network
from faces.models.weights import Weights

Floats = npt.NDArray[np.float64]


def embed(network: Network, weights: Weights, crops: npt.NDArray[np.uint8]) -> Floats:
    """Unit vectors, (n, dimensions), of crops (n, size, size, 3) BGR uint8."""
    pixels = (crops[..., ::-1].astype(np.float64) - 127.5) / 128.0
    values: dict[str, Floats] = {}
    for layer in network.layers:
        inputs = [values[name] for name in layer.inputs] or [pixels]
        arrays = {k: v.astype(np.float64) for k, v in weights.get(layer.name, {}).items()}
        values[layer.name] = _output(layer, inputs, arrays)
    vectors = values[network.output]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float64)


def _output(layer: Layer, inputs: list[Floats], arrays: dict[str, Floats]) -> Floats:
    x = inputs[0]
    match layer.kind:
        case "conv":
            windows = _windows(_padded(x, layer), layer)
            return np.tensordot(windows, arrays["kernel"], 3) + arrays.get("bias", 0.0)
        case "dense":
            return np.asarray(x @ arrays["kernel"] + arrays.get("bias", 0.0))
        case "norm":
            scale = arrays.get("gamma", 1.0) / np.sqrt(arrays["moving_variance"] + layer.epsilon)
            return np.asarray((x - arrays["moving_mean"]) * scale + arrays.get("beta", 0.0))
        case "relu":
            return np.maximum(x, 0.0)
        case "maxpool":
            return np.asarray(_windows(x, layer).max(axis=(3, 4)))
        case "avgpool":
            return np.asarray(x.mean(axis=(1, 2)))
        case "concat":
            return np.concatenate(inputs, axis=3)
        case "scale":
            return x * layer.scale
        case "add":
            return np.asarray(sum(inputs))
        case "input" | "pass":
            return x


def _padded(x: Floats, layer: Layer) -> Floats:
    if not layer.same:
        return x
    rows, columns = (side // 2 for side in layer.window)
    return np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _windows(x: Floats, layer: Layer) -> Floats:
    """(n, rows, columns, window rows, window columns, channels), a view."""
    view = np.lib.stride_tricks.sliding_window_view(x, layer.window, axis=(1, 2))
    return view[:, :: layer.strides[0], :: layer.strides[1]].transpose(0, 1, 2, 4, 5, 3)
