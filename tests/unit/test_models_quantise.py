"""The int8 models are what their cards say, safe on every processor, and near their base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper

from bench.crops import crops_of, photos_in
from faces.models import files, parity, quantise
from faces.models.cards import CARDS, ModelCard
from faces.sessions import open_session

INT8 = [model for model in CARDS.values() if model.recipe == "quantise" and model.sha256]


@pytest.fixture(params=[model.key for model in INT8])
def model(request: pytest.FixtureRequest) -> ModelCard:
    return CARDS[request.param]


def test_quantising_gives_the_bytes_that_the_card_names(
    model: ModelCard, models_dir: Path, tmp_path: Path
) -> None:
    base = files.encoder_path(models_dir, str(model.base))
    calibration = quantise.read_calibration(model.key)
    assert calibration.network == CARDS[str(model.base)].sha256
    quantise.quantise(base, tmp_path / "made.onnx", calibration)
    assert files.sha256_of(tmp_path / "made.onnx") == model.sha256
    assert (tmp_path / "made.onnx").stat().st_size == model.size


def test_a_model_without_calibration_says_how_to_make_one(models_dir: Path) -> None:
    with pytest.raises(files.ModelFileError, match="python -m bench calibrate facenet512-int8"):
        quantise.read_calibration("facenet512-int8")


def test_no_two_products_can_saturate_16_bits(model: ModelCard, models_dir: Path) -> None:
    graph = onnx.load(str(models_dir / model.file)).graph
    kernels = [numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("l/stored")]
    kernels = [kernel for kernel in kernels if kernel.dtype == np.int8]
    assert len(kernels) > 20
    largest = max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    assert largest > 60, "the range is used"


def test_a_tensor_that_was_not_calibrated_is_refused(
    model: ModelCard, models_dir: Path, tmp_path: Path
) -> None:
    held = quantise.read_calibration(model.key)
    fewer = dict(list(held.tensors.items())[1:])
    calibration = quantise.Calibration(held.model, held.network, held.made_by, fewer)
    base = files.encoder_path(models_dir, str(model.base))
    with pytest.raises(files.ModelFileError, match="was not calibrated"):
        quantise.quantise(base, tmp_path / "made.onnx", calibration)


def test_int8_vectors_are_near_those_of_the_base(
    model: ModelCard, models_dir: Path, samples_dir: Path
) -> None:
    photos = photos_in(samples_dir / "probes")[::4]
    crops = np.stack([found.crop for found in crops_of(models_dir, model, photos)])
    plain = open_session(files.encoder_path(models_dir, str(model.base))).run({"crops": crops})[0]
    small = open_session(models_dir / model.file).run({"crops": crops})[0]
    np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, atol=1e-5)
    assert (plain * small).sum(axis=1).min() > 0.97


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.floats(-60, 60, allow_subnormal=False),
    )
)
def test_rounding_moves_each_value_by_less_than_one_and_cancels_over_a_channel(
    kernel: np.ndarray,
) -> None:
    values = quantise.rounded(kernel).astype(np.float64)
    error = values - kernel
    if kernel.shape[2] * kernel.shape[3] == 1 or kernel.shape[1] == 1:
        assert np.abs(error).max() <= 1.0
    assert np.abs(error).max() <= 2.0
    if kernel[0].size > 1:
        assert np.abs(error.reshape(len(kernel), -1).sum(axis=1)).max() <= 0.5 + 1e-6


@settings(deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50))
def test_zero_is_exact_and_the_range_is_covered(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero = quantise.scale_and_zero(low, high)
    assert 0 <= zero <= 255
    assert (0 - zero) * scale <= min(0.0, low) + scale
    assert (255 - zero) * scale >= max(0.0, high) - scale


@pytest.mark.parametrize("model", CARDS.values(), ids=lambda model: model.key)
def test_parity_holds_for_every_model_that_is_here(model: ModelCard, models_dir: Path) -> None:
    if model.key.startswith("facenet512") and not (models_dir / model.file).is_file():
        with pytest.raises(files.ModelFileError, match="fetch"):
            parity.check(models_dir, model)
        return
    found = parity.check(models_dir, model)
    assert found.holds, f"{found.cosine} by {found.method}"
    assert found.least >= 0.9
