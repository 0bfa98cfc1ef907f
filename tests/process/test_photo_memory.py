"""What the web process with its children and a model takes, as a real process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from bench import photo
from bench.trees import Sampler
from faces.settings import Settings

IDLE_MIB, PEAK_MIB = 180, 256


@pytest.fixture(scope="module")
def large(samples_dir: Path) -> bytes:
    """A 12-megapixel JPEG of a face."""
    portrait = Image.open(sorted(samples_dir.glob("*/*/*"))[40]).convert("RGB")
    return photo.large_photo(portrait, 4000, 3000)


def test_it_stays_small_idle_and_while_eight_clients_upload(
    large: bytes, models_dir: Path, tmp_path: Path
) -> None:
    settings = Settings(model_dir=models_dir, var_dir=tmp_path)
    with photo.served(settings) as (pid, port):
        assert photo.upload(port, large) == 200
        sampler = Sampler(pid, limit_mib=1024, period=0.05)
        try:
            while len(sampler.samples) < 10:
                time.sleep(0.05)
            assert sampler.level < IDLE_MIB
            sampler.mark()
            statuses = photo.upload_together(port, large, each=3)
            assert set(statuses) <= {200, 503}
            assert statuses.count(200) >= photo.CLIENTS
            assert sampler.peak < PEAK_MIB
        finally:
            sampler.close()
