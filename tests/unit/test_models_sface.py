"""SFace runs faster than its published file and gives the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from faces.errors import ModelFileError
from faces.models import sface
from faces.sessions import open_session

NAME = "face_recognition_sface_2021dec_int8bq.onnx"


def test_the_converted_graph_gives_what_the_published_one_gives(
    models_dir: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(models_dir / "sources" / NAME))
    images = [value for value in model.graph.input if value.name == "data"]
    del model.graph.input[:]  # it lists its constants there too, which the runtime refuses
    model.graph.input.extend(images)
    onnx.save(model, str(tmp_path / "published.onnx"))
    published = open_session(tmp_path / "published.onnx")
    crops = np.random.default_rng(4).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    # OpenCV's FaceRecognizerSF feeds RGB, 0 to 255; the graph normalises.
    planes = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    expected = np.concatenate([published.run({"data": plane[None]})[0] for plane in planes])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    (found,) = open_session(models_dir / "sface.onnx").run({"crops": crops})
    assert (found * expected).sum(axis=1).min() > 0.99999


def test_another_network_is_refused(models_dir: Path) -> None:
    with pytest.raises(ModelFileError, match="SFace"):
        sface.convert((models_dir / "yunet.onnx").read_bytes())
