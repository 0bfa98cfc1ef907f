"""The YuNet detector, rewritten for ONNX Runtime: `convert(bytes) -> bytes`.

The published int8bq file holds its weights in int8 blocks that are dequantised again at every run,
and ONNX Runtime refuses it (block-quantised biases). Here the blocks are dequantised once. Three
exact rewrites make the result faster to run and easier to read:

- the input is what a decoder gives, uint8 (1, height, width, 3) BGR, both sides free multiples
  of 32;
- the four heads of a level (class, object, box, landmarks) read the same features through a 1x1
  and then a depthwise convolution: side by side they are one pair of 16 channels;
- transposes, reshapes and sigmoids of whole maps go: the caller needs them at a few places only.

Outputs `stride8`, `stride16`, `stride32`: float32 (1, 16, height/stride, width/stride), channels
0 class logit, 1 object logit, 2-5 box, 6-15 landmarks, still relative to their cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from faces.errors import ModelFileError
from faces.models.blocks import constants

STRIDES = (8, 16, 32)
HEADS = ("cls", "obj", "bbox", "kps")
_BACKBONE = ("Conv", "Relu", "MaxPool", "Resize", "Add")

Floats = npt.NDArray[np.float32]


def convert(source: bytes) -> bytes:
    """The detector's ONNX file made from the published YuNet file, int8bq or plain float.

    Raises ModelFileError when the file is not the YuNet network.
    """
    try:
        graph = onnx.load_from_string(source).graph
        weights = constants(graph)
        nodes, used = _body(graph, weights)
        initializers = {name: weights[name] for name in used}
        for level, stride in enumerate(STRIDES):
            nodes += _head(graph, weights, initializers, level, f"stride{stride}")
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise ModelFileError("The detector's file is not the YuNet network.") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which mypy cannot see
            raise
        raise ModelFileError("The detector's file is not an ONNX file.") from error
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "yunet",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])],
            [
                helper.make_tensor_value_info(
                    f"stride{stride}", TensorProto.FLOAT, [1, 16, f"h{stride}", f"w{stride}"]
                )
                for stride in STRIDES
            ],
            [numpy_helper.from_array(array, name) for name, array in sorted(initializers.items())],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        producer_name="likeness",
        ir_version=8,
    )
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def _body(
    graph: onnx.GraphProto, weights: dict[str, npt.NDArray[Any]]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes from the image to the three feature maps, and the constants that they use."""
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["input"], perm=[0, 3, 1, 2]),
    ]
    used: set[str] = set()
    for node in graph.node:
        is_head = any("_head." in name for name in node.input)
        if node.op_type not in _BACKBONE or is_head:
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        if node.op_type == "Resize":  # its region of interest is empty, which newer opsets omit
            kept.input[1] = ""
        nodes.append(kept)
        used.update(name for name in kept.input if name in weights)
    return nodes, used


def _head(
    graph: onnx.GraphProto,
    weights: dict[str, npt.NDArray[Any]],
    initializers: dict[str, npt.NDArray[Any]],
    level: int,
    output: str,
) -> list[onnx.NodeProto]:
    """One level's four heads as one 1x1 and one depthwise convolution of 16 channels."""
    features = ""
    parts: dict[str, list[npt.NDArray[Any]]] = {"1w": [], "1b": [], "2w": [], "2b": []}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    for head in HEADS:
        prefix = f"bbox_head.multi_level_{head}.{level}.conv"
        for step in ("1", "2"):
            node = next(n for n in convolutions if n.input[1].startswith(f"{prefix}{step}."))
            features = node.input[0] if step == "1" else features
            parts[f"{step}w"].append(weights[node.input[1]])
            parts[f"{step}b"].append(weights[node.input[2]])
    for name, arrays in parts.items():
        initializers[f"{output}.{name}"] = np.concatenate(arrays).astype(np.float32)
    if initializers[f"{output}.2w"].shape != (16, 1, 3, 3):
        raise ValueError("the heads do not have 16 channels")
    return [
        helper.make_node(
            "Conv",
            [features, f"{output}.1w", f"{output}.1b"],
            [f"{output}.1"],
            kernel_shape=[1, 1],
        ),
        helper.make_node(
            "Conv",
            [f"{output}.1", f"{output}.2w", f"{output}.2b"],
            [output],
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            group=16,
        ),
    ]
