"""Pictures opened by a real decoder, for the tests of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from faces.decoder import Decoder
from faces.errors import InvalidImage
from faces.image import probe
from faces.types import Pixels

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The placement of a crop at the picture's corner."""


def opened(decoder: Decoder, data: bytes, side: int = 640) -> Pixels:
    with decoder.open(data, probe(data), side=side) as picture:
        return picture.image


def reason(decoder: Decoder, data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        opened(decoder, data)
    return caught.value.reason


def bgr(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))[:, :, ::-1]


def distance(one: Pixels, other: Pixels) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())
