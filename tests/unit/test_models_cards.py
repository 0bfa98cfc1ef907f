"""Every card is complete, honest about licences, and consistent with the code around it."""

from __future__ import annotations

import re

import pytest

from faces.align import TEMPLATES
from faces.errors import ConfigError
from faces.models.cards import CARDS, DETECTOR, ModelCard, RegistrySource, card

EVERY = list(CARDS.values())


@pytest.mark.parametrize("model", EVERY, ids=lambda model: model.key)
def test_a_card_says_what_a_reader_must_know(model: ModelCard) -> None:
    assert model.dimensions in (128, 512)
    assert TEMPLATES[model.alignment].size == model.input_size
    assert 0 < model.threshold < 1
    assert model.threshold_source.startswith(("published:", "measured:", "careful default:"))
    for text in (model.licence, model.licence_declared_by, model.training_data):
        assert text
    assert model.commercial_use.startswith(("declared", "unclear"))
    assert (model.download is None) != (model.base is None)


@pytest.mark.parametrize("model", EVERY, ids=lambda model: model.key)
def test_a_packages_licence_is_never_taken_for_the_weights(model: ModelCard) -> None:
    origin = CARDS[model.base] if model.base else model
    assert origin.download is not None
    if any(isinstance(source, RegistrySource) for source in origin.download.sources):
        assert "MIT" not in model.licence


@pytest.mark.parametrize("model", [*EVERY, DETECTOR], ids=lambda model: model.key)
def test_every_source_is_pinned(model: ModelCard) -> None:
    if model.download is None:
        return
    assert re.fullmatch(r"[0-9a-f]{64}", model.download.sha256)
    assert model.download.size > 100_000
    for source in model.download.sources:
        if isinstance(source, RegistrySource):
            assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
            assert source.version in source.filename


@pytest.mark.parametrize("model", EVERY, ids=lambda model: model.key)
def test_a_calibration_falls_and_names_its_photos(model: ModelCard) -> None:
    assert bool(model.calibration) == bool(model.calibrated_on)
    assert list(model.calibration) == sorted(model.calibration)
    rates = [rate for _, rate in model.calibration]
    assert rates == sorted(rates, reverse=True)
    found = model.false_match_rate(model.threshold)
    assert found is None or found <= 1e-3, "the default threshold is FAR 1e-3 or stricter"


def test_an_unknown_key_is_answered_with_the_keys_there_are() -> None:
    with pytest.raises(ConfigError, match="facenet512, facenet128, facenet128-int8, sface"):
        card("facenet")
