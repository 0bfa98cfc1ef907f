"""An int8 form of a converted network, by scales that were calibrated once and checked in.

Activations are uint8 with one scale and zero point each, weights int8 with one scale a channel,
both as QuantizeLinear/DequantizeLinear pairs, which ONNX Runtime fuses into integer kernels. The
mean and the last matrix product stay in float32: they cost nothing.

Weights use 7 of the 8 bits. On x86 without VNNI two products of a full uint8 and a full int8 are
added up in 16 bits and saturate, which ruins vectors; 2 * 255 * 64 stays below 32768. So one file
is right on every CPU. What the bit costs is won back by how values are rounded (see `rounded`).

The result's bytes depend on the network and the calibration only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faces.errors import ModelFileError

WEIGHT_LIMIT = 64
"""The largest magnitude of a weight in int8."""
ACTIVATION_LIMIT = 255
FIXED_POINT = 1 << 32
INTEGER_OPS = ("Conv", "Relu", "MaxPool", "Concat", "Add")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The scale and zero point of each tensor of the network with SHA-256 `network`."""

    model: str
    network: str
    made_by: str
    tensors: Mapping[str, tuple[float, int]]


def calibration_path(key: str) -> Path:
    """Where a model's calibration is checked in."""
    return Path(__file__).with_name("calibration") / f"{key}.json"


def read_calibration(key: str) -> Calibration:
    """The checked-in calibration of a model; raises ModelFileError when there is none."""
    try:
        held = json.loads(calibration_path(key).read_text("utf-8"))
    except OSError as error:
        raise ModelFileError(
            f"Model {key} is not calibrated: run `python -m bench calibrate {key}`."
        ) from error
    tensors = {name: (float(scale), int(zero)) for name, (scale, zero) in held["tensors"].items()}
    return Calibration(held["model"], held["network"], held["made_by"], tensors)


def write_calibration(key: str, calibration: Calibration) -> None:
    """Writes a calibration where `read_calibration` reads it, one tensor a line."""
    head = {name: getattr(calibration, name) for name in ("model", "network", "made_by")}
    lines = [
        f"  {json.dumps(name)}: {json.dumps(list(value))}"
        for name, value in calibration.tensors.items()
    ]
    text = json.dumps(head, indent=1)[:-2] + ',\n "tensors": {\n' + ",\n".join(lines) + "\n }\n}\n"
    calibration_path(key).parent.mkdir(exist_ok=True)
    calibration_path(key).write_text(text, "utf-8")


def integer_tensors(graph: Any) -> list[str]:
    """The outputs of a converted graph that are kept as integers, in the graph's order.

    A convolution or sum that only a ReLU reads is not among them: it is fused with the ReLU. Nor is
    a ReLU that others read around: it is part of an activation that is computed in float32.
    """
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)

    def integer(node: Any) -> bool:
        if node.op_type == "Relu":
            return readers[node.input[0]] == ["Relu"]
        return node.op_type in INTEGER_OPS and readers.get(node.output[0]) != ["Relu"]

    return [node.output[0] for node in graph.node if integer(node)]


def scale_and_zero(low: float, high: float) -> tuple[float, int]:
    """The uint8 scale and zero point for values in [low, high], widened to hold zero exactly."""
    low, high = min(0.0, low), max(0.0, high)
    scale = np.float32(max(high - low, 1e-8) / ACTIVATION_LIMIT)
    return float(scale), int(np.clip(np.rint(-low / scale), 0, ACTIVATION_LIMIT))


def rounded(kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """A scaled kernel (OIHW, or OI) as integers whose errors cancel out instead of adding up.

    Activations behind a ReLU have a mean far from zero, so that errors of one sign shift a whole
    channel. After rounding to the nearest, as few values as needed, those nearest to the middle,
    are rounded the other way until the errors of each window, and then of each output channel, sum
    to at most a half. After Guo et al., "SQuant" (2022); it needs no data.
    """
    values = np.rint(kernel)
    for rows in (kernel.shape[0] * kernel.shape[1], kernel.shape[0]):
        flat, exact = values.reshape(rows, -1), kernel.reshape(rows, -1)
        if flat.shape[1] == 1:
            continue
        # In fixed point, so that sums do not depend on the order in which a processor adds.
        error = np.rint((flat - exact) * FIXED_POINT).astype(np.int64)
        total = error.sum(axis=1, keepdims=True)
        excess = np.sign(total) * ((np.abs(total) + FIXED_POINT // 2) // FIXED_POINT)
        order = np.argsort(-np.sign(excess) * error, axis=1, kind="stable")
        turned = np.arange(flat.shape[1]) < np.abs(excess)
        change = np.zeros_like(flat)
        np.put_along_axis(change, order, turned * np.sign(excess), axis=1)
        values = (flat - change).reshape(kernel.shape)
    return np.clip(values, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)


def quantise(source: Path, target: Path, calibration: Calibration) -> None:
    """Writes the int8 form of the converted network at `source` to `target`.

    Raises ModelFileError when a tensor was not calibrated.
    """
    import onnx

    model = onnx.load(str(source))
    _Quantiser(model.graph, calibration).run()
    target.write_bytes(model.SerializeToString(deterministic=True))


class _Quantiser:
    def __init__(self, graph: Any, calibration: Calibration) -> None:
        from onnx import numpy_helper

        self._graph, self._calibration = graph, calibration
        self._weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []
        self._scales: dict[str, float] = {}
        self._zeros: dict[str, int] = {}
        self._stored: dict[str, str] = {}
        self._integers = set(integer_tensors(graph))

    def run(self) -> None:
        """Rewrites the graph in place."""
        nodes = list(self._graph.node)
        image = self._pixels(nodes)
        rename = {image: f"{image}/float"}
        used: set[str] = set()
        for node in nodes[2:]:
            source, name = node.input[0], node.output[0]
            if node.op_type in ("Pad", "Flatten") and source in self._scales:
                rename[name] = self._moved(node)
                continue
            inputs = [rename.get(one, one) for one in node.input]
            if node.op_type in ("Conv", "Gemm") and source in self._scales:
                inputs[1:] = self._weights_of(node)
            else:
                used.update(one for one in node.input if one in self._weights)
            del node.input[:]
            node.input.extend(inputs)
            self._nodes.append(node)
            if name in self._integers:
                # A pool keeps its input's scale: the runtime pools integers only then.
                scaled_as = source if node.op_type == "MaxPool" else name
                rename[name] = self._pair(name, scaled_as)
        kept = [t for t in self._graph.initializer if t.name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*kept, *self._tensors])

    def _pixels(self, nodes: list[Any]) -> str:
        """Lets the uint8 pixels in as they are, scale 1, in place of the cast to float."""
        cast, turn = nodes[:2]
        if cast.op_type != "Cast" or turn.op_type != "Transpose":
            raise ModelFileError("The network does not begin as a converted one does.")
        turn.input[0] = cast.input[0]
        self._nodes.append(turn)
        image = str(turn.output[0])
        self._dequantise(image, f"{image}/float", 1.0, np.zeros((), np.uint8))
        self._integer(image, 1.0, 0, stored=image)
        return image

    def _integer(self, name: str, scale: float, zero: int, *, stored: str) -> None:
        """Notes that a tensor is there as uint8 under the name `stored`."""
        self._scales[name], self._zeros[name], self._stored[name] = scale, zero, stored

    def _moved(self, node: Any) -> str:
        """Lets a node that only moves values work on the integers; returns what readers read."""
        source, name = node.input[0], node.output[0]
        scale, zero = self._scales[source], self._zeros[source]
        inputs = [self._stored[source]]
        if node.op_type == "Pad":
            value = np.rint(self._weights[node.input[2]] / scale) + zero
            inputs.append(self._tensor(node.input[1], self._weights[node.input[1]]))
            inputs.append(self._tensor(f"{name}/value", value.astype(np.uint8)))
        del node.input[:]
        node.input.extend(inputs)
        self._nodes.append(node)
        self._dequantise(name, f"{name}/float", scale, np.uint8(zero))
        self._integer(name, scale, zero, stored=name)
        return f"{name}/float"

    def _pair(self, name: str, scaled_as: str) -> str:
        """Quantises and dequantises a tensor; returns what its readers read."""
        try:
            scale, zero = self._calibration.tensors[scaled_as]
        except KeyError:
            raise ModelFileError(f"Tensor {scaled_as} was not calibrated.") from None
        self._quantise(name, f"{name}/uint8", scale, zero)
        self._dequantise(f"{name}/uint8", f"{name}/float", scale, np.uint8(zero))
        self._integer(name, scale, zero, stored=f"{name}/uint8")
        return f"{name}/float"

    def _weights_of(self, node: Any) -> list[str]:
        """The dequantised names of the int8 kernel and int32 bias of a convolution or product."""
        source, kernel_name, bias_name = node.input
        kernel = self._weights[kernel_name].astype(np.float64)
        largest = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
        scales = (np.maximum(largest, 1e-12) / WEIGHT_LIMIT).astype(np.float32)
        wide = scales.astype(np.float64).reshape((-1,) + (1,) * (kernel.ndim - 1))
        self._dequantise_stored(kernel_name, rounded(kernel / wide), scales)
        bias_scales = (scales.astype(np.float64) * self._scales[source]).astype(np.float32)
        bias = np.rint(self._weights[bias_name].astype(np.float64) / bias_scales)
        bias = np.clip(bias, -(2**31), 2**31 - 1).astype(np.int32)
        self._dequantise_stored(bias_name, bias, bias_scales)
        return [f"{kernel_name}/float", f"{bias_name}/float"]

    def _dequantise_stored(
        self, name: str, values: npt.NDArray[Any], scales: npt.NDArray[np.float32]
    ) -> None:
        stored = self._tensor(f"{name}/stored", values)
        self._dequantise(stored, f"{name}/float", scales, np.zeros(len(scales), values.dtype))

    def _quantise(self, source: str, output: str, scale: float, zero: int) -> None:
        from onnx import helper

        inputs = [
            source,
            self._tensor(f"{output}/scale", np.float32(scale)),
            self._tensor(f"{output}/zero", np.uint8(zero)),
        ]
        self._nodes.append(helper.make_node("QuantizeLinear", inputs, [output], name=output))

    def _dequantise(self, source: str, output: str, scale: Any, zero: Any) -> None:
        from onnx import helper

        inputs = [
            source,
            self._tensor(f"{output}/scale", np.asarray(scale, np.float32)),
            self._tensor(f"{output}/zero", np.asarray(zero)),
        ]
        node = helper.make_node("DequantizeLinear", inputs, [output], name=output)
        if np.ndim(scale):
            node.attribute.append(helper.make_attribute("axis", 0))
        self._nodes.append(node)

    def _tensor(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self._tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name
