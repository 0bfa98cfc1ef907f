"""Which encoder is chosen: one order of precedence."""

from __future__ import annotations

from typing import Any

import pytest

from faces.choice import choose
from faces.settings import Settings

REMOTE = {"encoder": "remote", "encoder_url": "http://encoder"}


@pytest.mark.parametrize(
    ("values", "installed", "kind"),
    [
        ({"face_recognition_enabled": False, **REMOTE}, True, "disabled"),
        ({**REMOTE, "use_lite_embeddings": True}, True, "remote"),
        ({"encoder": "onnx", "use_lite_embeddings": False}, True, "onnx"),
        ({"use_lite_embeddings": True}, True, "onnx"),
        ({"use_lite_embeddings": False}, True, "deepface"),
        ({"use_lite_embeddings": False}, False, "onnx"),
    ],
)
def test_the_order_is_switch_encoder_lite_deepface_onnx(
    values: dict[str, Any], installed: bool, kind: str
) -> None:
    assert choose(Settings.model_validate(values), installed=installed).kind == kind


def test_a_fall_back_is_a_warning_that_names_both_remedies() -> None:
    chosen = choose(Settings.model_validate({"use_lite_embeddings": False}), installed=False)
    assert "USE_LITE_EMBEDDINGS=true" in chosen.warning
    assert "deepface" in chosen.warning
    assert not choose(Settings.model_validate({}), installed=False).warning


@pytest.mark.parametrize(
    ("model", "kind"), [(None, "deepface"), ("facenet512", "deepface"), ("facenet128", "onnx")]
)
def test_deepface_encodes_only_for_a_database_whose_vectors_it_makes(
    model: str | None, kind: str
) -> None:
    chosen = choose(Settings.model_validate({}), installed=True, model=model)
    assert chosen.kind == kind
