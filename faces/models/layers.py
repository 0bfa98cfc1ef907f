"""The layers of a Keras network as plain values, from the file's own description of them.

Nothing that a file holds is executed: a Lambda's marshalled code is never looked at, only its
`arguments`. Both kinds of scaled sum that are in use become plain layers here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from faces.errors import ModelFileError

Kind = Literal[
    "input", "conv", "norm", "relu", "maxpool", "avgpool", "concat", "scale", "add", "dense", "pass"
]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what it does, to the outputs of which layers, with which weights.

    `weights` are the names of its arrays in the order in which Keras stores them. Windows are
    (rows, columns). `scale` is the factor of a "scale" layer.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    filters: int = 0
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    same: bool = False
    epsilon: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Network:
    """Layers in an order in which each comes after its inputs; the last one named is the output."""

    layers: tuple[Layer, ...]
    output: str
    by_name: Mapping[str, Layer] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {layer.name: layer for layer in self.layers})


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _parse(entry: Mapping[str, Any]) -> list[Layer]:
    """The layers that one entry of a functional `model_config` stands for."""
    name, kind, config = str(entry["name"]), str(entry["class_name"]), entry["config"]
    nodes = entry["inbound_nodes"]
    if len(nodes) > 1:
        raise ModelFileError(f"Layer {name} is used more than once; that is not supported.")
    inputs = tuple(str(part[0]) for part in nodes[0]) if nodes else ()
    if config.get("data_format", "channels_last") != "channels_last":
        raise ModelFileError(f"Layer {name} is not channels_last; that is not supported.")
    weights: tuple[str, ...]
    if kind == "InputLayer":
        return [Layer(name, "input")]
    if kind == "Conv2D":
        if tuple(config.get("dilation_rate", (1, 1))) != (1, 1):
            raise ModelFileError(f"Layer {name} is dilated; that is not supported.")
        if config.get("activation", "linear") != "linear":
            raise ModelFileError(f"Layer {name} has an activation inside; that is not supported.")
        weights = ("kernel", "bias") if config["use_bias"] else ("kernel",)
        return [
            Layer(
                name,
                "conv",
                inputs,
                weights,
                filters=int(config["filters"]),
                window=_pair(config["kernel_size"]),
                strides=_pair(config["strides"]),
                same=config["padding"] == "same",
            )
        ]
    if kind == "BatchNormalization":
        names = [("gamma", config["scale"]), ("beta", config["center"])]
        learned = [n for n, used in names if used]
        weights = (*learned, "moving_mean", "moving_variance")
        return [Layer(name, "norm", inputs, weights, epsilon=float(config["epsilon"]))]
    if kind == "Activation" and config["activation"] == "relu":
        return [Layer(name, "relu", inputs)]
    if kind == "MaxPooling2D" and config["padding"] == "valid":
        window, strides = _pair(config["pool_size"]), _pair(config["strides"])
        return [Layer(name, "maxpool", inputs, window=window, strides=strides)]
    if kind == "GlobalAveragePooling2D":
        return [Layer(name, "avgpool", inputs)]
    if kind == "Concatenate" and config["axis"] in (3, -1):
        return [Layer(name, "concat", inputs)]
    if kind == "Dense" and config["activation"] == "linear":
        weights = ("kernel", "bias") if config["use_bias"] else ("kernel",)
        return [Layer(name, "dense", inputs, weights, filters=int(config["units"]))]
    if kind == "Dropout":
        return [Layer(name, "pass", inputs)]
    if kind == "Add":
        return [Layer(name, "add", inputs)]
    if kind == "Lambda" and list(config.get("arguments", ())) == ["scale"]:
        scale = float(config["arguments"]["scale"])
        if len(inputs) == 1:
            return [Layer(name, "scale", inputs, scale=scale)]
        if len(inputs) == 2:  # a + b * scale
            scaled = Layer(f"{name}/scale", "scale", inputs[1:], scale=scale)
            return [scaled, Layer(name, "add", (inputs[0], scaled.name))]
    raise ModelFileError(f"Layer {name} ({kind}) is of a kind that is not supported.")


def from_config(text: str) -> Network:
    """The network that the JSON `model_config` of a Keras functional model describes."""
    model = json.loads(text)
    config = model["config"]
    if model["class_name"] not in ("Model", "Functional") or len(config["output_layers"]) != 1:
        raise ModelFileError("The file does not hold a functional model with one output.")
    layers = [layer for entry in config["layers"] for layer in _parse(entry)]
    return Network(_ordered(layers), str(config["output_layers"][0][0]))


def _ordered(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with each after its inputs; raises ModelFileError where that cannot be."""
    done: dict[str, Layer] = {}
    waiting = list(layers)
    while waiting:
        ready = [layer for layer in waiting if all(name in done for name in layer.inputs)]
        if not ready:
            raise ModelFileError("The layers of the file do not form a network.")
        done.update((layer.name, layer) for layer in ready)
        waiting = [layer for layer in waiting if layer.name not in done]
    return tuple(done.values())


def keras_order(network: Network) -> list[Layer]:
    """The layers in the order in which Keras stores a functional model's weights.

    By depth, that is the longest way to the output, deepest first; ties by a walk that starts at
    the output and names a layer before its inputs. It is not the order of the source code, and
    weights matched by that would be wrong without any error.
    """
    walk: dict[str, int] = {}
    pending = [network.output]
    while pending:
        name = pending.pop()
        if name not in walk:
            walk[name] = len(walk)
            pending.extend(reversed(network.by_name[name].inputs))
    depth = dict.fromkeys(walk, 0)
    for layer in reversed(network.layers):
        for name in layer.inputs:
            depth[name] = max(depth[name], depth[layer.name] + 1)
    return sorted(
        (network.by_name[name] for name in walk), key=lambda x: (-depth[x.name], walk[x.name])
    )
