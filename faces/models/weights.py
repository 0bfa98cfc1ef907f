"""The weights of a Keras h5 file, laid out for the network that they belong to.

h5py is needed here only, when a model is made, never when one is served.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from faces.errors import ModelFileError
from faces.models.inception import inception_resnet_v1
from faces.models.layers import Network, from_config, keras_order

if TYPE_CHECKING:
    import h5py

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Mapping[str, Array]]
"""Layer name -> array name (kernel, bias, beta, …) -> values as stored, convolutions HWIO."""


def read(path: Path) -> tuple[Network, Weights]:
    """The network in a Keras h5 file, with its weights.

    A file with a `model_config` describes itself, and its weights are found by layer name. A file
    of weights only is taken for an Inception-ResNet v1, its dimension read from the dense layer,
    and its weights are matched by order, as Keras does: names in such files are not reliable.
    Raises ModelFileError when the file is neither.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                network = from_config(_text(file.attrs["model_config"]))
                return network, _by_name(file["model_weights"], network)
            return _by_order(file)
    except (OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path.name} is not a Keras file that can be read.") from error


def order_by_names(path: Path) -> list[str] | None:
    """The layers with weights as a file of weights names them, in its order; None for a file that
    describes itself."""
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" in file.attrs:
            return None
        return [
            n for n in _names(file.attrs, "layer_names") if _names(file[n].attrs, "weight_names")
        ]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _names(attributes: Mapping[str, Any], key: str) -> list[str]:
    """A list of names; a long one is stored in parts, `key0`, `key1` and so on."""
    if key in attributes:
        return [_text(name) for name in attributes[key]]
    parts = (f"{key}{number}" for number in itertools.count())
    return [
        _text(n)
        for part in itertools.takewhile(attributes.__contains__, parts)
        for n in attributes[part]
    ]


def _arrays(group: h5py.Group) -> list[tuple[str, Array]]:
    """The arrays of one layer's group as (short name, values), in the file's order."""
    names = _names(group.attrs, "weight_names")
    short = [name.rsplit("/", 1)[-1].split(":", 1)[0] for name in names]
    return [(s, np.asarray(group[n], np.float32)) for s, n in zip(short, names, strict=True)]


def _by_name(group: h5py.Group, network: Network) -> Weights:
    found: dict[str, dict[str, Array]] = {}
    for layer in network.layers:
        if not layer.weights:
            continue
        arrays = dict(_arrays(group[layer.name]))
        if set(arrays) != set(layer.weights):
            raise ModelFileError(f"Layer {layer.name} has other weights than its description says.")
        found[layer.name] = arrays
    return found


def _by_order(file: h5py.File) -> tuple[Network, Weights]:
    names = _names(file.attrs, "layer_names")
    stored = [arrays for name in names if (arrays := _arrays(file[name]))]
    dense = [a[0][1].shape for a in stored if a[0][0] == "kernel" and a[0][1].ndim == 2]
    if len(dense) != 1:
        raise ModelFileError("The file's weights are not those of an Inception-ResNet v1.")
    network = inception_resnet_v1(int(dense[0][1]))
    layers = [layer for layer in keras_order(network) if layer.weights]
    if len(layers) != len(stored):
        raise ModelFileError(
            f"The file holds weights of {len(stored)} layers, the network has {len(layers)}."
        )
    found: dict[str, dict[str, Array]] = {}
    for layer, arrays in zip(layers, stored, strict=True):
        if tuple(name for name, _ in arrays) != layer.weights:
            raise ModelFileError(f"The weights at the place of {layer.name} are of another kind.")
        found[layer.name] = dict(arrays)
    return network, found
