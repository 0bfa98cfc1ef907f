"""The detector's conversion refuses what is not the detector."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from faces.errors import ModelFileError
from faces.models.yunet import convert


def another_network() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])],
        "other",
        [value("input", TensorProto.FLOAT, [1])],
        [value("output", TensorProto.FLOAT, [1])],
    )
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@pytest.mark.parametrize("content", [b"", b"no model", another_network()])
def test_what_is_not_yunet_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFileError, match="detector's file"):
        convert(content)
