"""How a process puts its pipeline together."""

from __future__ import annotations

import pytest

from faces import decoder, loading
from faces.priority import PATIENT_S
from faces.settings import Settings


@pytest.mark.parametrize(
    ("gives_way", "seconds"), [(True, PATIENT_S), (False, decoder.WALL_SECONDS)]
)
def test_with_a_remote_encoder_too_the_decoder_has_time_where_the_process_gives_way(
    gives_way: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[decoder.Decoder] = []

    class Noted(decoder.Decoder):
        def __init__(self, **options: float) -> None:
            super().__init__(wall_seconds=options.get("wall_seconds", decoder.WALL_SECONDS))
            made.append(self)

    monkeypatch.setattr(loading, "gives_way", lambda: gives_way)
    monkeypatch.setattr(decoder, "Decoder", Noted)
    settings = Settings.model_construct(encoder="remote", encoder_url="http://127.0.0.1:9")
    loading.load_pipeline(settings, "facenet128").close()
    assert [one._wall_seconds for one in made] == [seconds]
