"""The decoder and its real child: what every kind of picture becomes, and that nothing kills it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from faces.decoder import Decoder
from faces.errors import ImageError
from faces.image import probe
from faces.types import Box
from tests import hostile
from tests.decoding import IDENTITY, bgr, distance, opened, reason
from tests.hostile import jpeg, photo, png, webp


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


def ycck() -> bytes:
    """A CMYK JPEG stored as YCCK, as Photoshop does."""
    c, m, y, k = photo().convert("CMYK").split()
    luma = Image.merge("RGB", (c, m, y)).convert("YCbCr").split()
    inverted = [band.point(lambda v: 255 - v) for band in luma]
    data = jpeg(Image.merge("CMYK", (*inverted, k)), quality=95)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\2" + data[at + 1 :]


def sixteen_bit_rgb(image: Image.Image) -> bytes:
    wide = (np.asarray(image).astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    return hostile.png_of(
        hostile.png_header(*image.size, depth=16),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )


def sixteen_bit_grey(image: Image.Image) -> bytes:
    return png(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257))


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        (png(), photo(), 0),
        (jpeg(quality=95), photo(), 3),
        (jpeg(quality=95, progressive=True), photo(), 3),
        (webp(lossless=True), photo(), 0),
        (webp(quality=95), photo(), 4),
        (jpeg(photo().convert("L"), quality=95), photo().convert("L"), 3),
        (jpeg(photo().convert("CMYK"), quality=95), photo(), 4),
        (ycck(), photo(), 4),
        (png(photo().quantize(256)), photo().quantize(256), 0),
        (png(photo().convert("1")), photo().convert("1"), 0),
        (png(photo().convert("LA")), photo().convert("L"), 0),
        (png(photo().convert("RGBA")), photo(), 0),
        (sixteen_bit_grey(photo()), photo().convert("L"), 0.01),
        (sixteen_bit_rgb(photo()), photo(), 0.01),
    ],
    ids=[
        "png",
        "jpeg",
        "progressive",
        "webp-lossless",
        "webp",
        "grey",
        "cmyk",
        "ycck",
        "palette",
        "bilevel",
        "grey-alpha",
        "rgba",
        "grey16",
        "rgb16",
    ],
)
def test_every_kind_of_pixel_becomes_the_same_bgr(
    decoder: Decoder, data: bytes, expected: Image.Image, tolerance: float
) -> None:
    assert distance(opened(decoder, data), bgr(expected)) <= tolerance


def test_transparency_shows_white(decoder: Decoder) -> None:
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    palette = photo().quantize(16)
    half = photo().convert("RGBA")
    half.putalpha(128)
    for data in (png(clear), webp(clear), png(palette, transparency=bytes(16))):
        assert opened(decoder, data).min() == 255
    expected = (bgr(photo()).astype(int) * 128 + 255 * 127) // 255
    assert np.abs(opened(decoder, png(half)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_stand_upright(decoder: Decoder, value: int) -> None:
    upright = photo(96, 64)
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[value]
    stored = upright if back is None else upright.transpose(back)
    data = hostile.with_chunks(png(stored), (b"eXIf", hostile.exif(value)))
    with decoder.open(data, probe(data), side=640) as picture:
        assert np.array_equal(picture.image, bgr(upright))
        # A crop is cut from the stored pixels: it must land on the same upright ones.
        shift = (1.0, 0.0, 20.0, 0.0, 1.0, 10.0)
        ((crop,), _) = picture.cut([shift], 40)
        assert np.array_equal(crop, bgr(upright)[10:50, 20:60])
        whole = picture.jpeg(Box(0, 0, 96, 64), side=96, cap=10**6)
    thumbnail = opened(decoder, whole)
    assert distance(thumbnail, bgr(upright)) < 4


def test_a_large_picture_comes_reduced_and_is_cut_finely(decoder: Decoder) -> None:
    large = photo(2400, 1600)
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    fine = Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC)
    large.paste(fine, (1000, 600))
    data = jpeg(large, quality=95, subsampling=0)
    with decoder.open(data, probe(data), side=640) as picture:
        assert picture.image.shape == (427, 640, 3)
        assert picture.scale == pytest.approx((3.75, 1600 / 427))
        placement = (1.0, 0.0, 1000.0, 0.0, 1.0, 600.0)
        ((rough,), before) = picture.cut([placement], 160)
        ((sharp,), after) = picture.cut([placement], 160, finer=True)
    assert (before, after) == ([False], [True])
    assert distance(sharp, bgr(fine)) < 5
    assert distance(sharp, bgr(fine)) < distance(rough, bgr(fine)) / 2


def test_outside_the_picture_a_crop_is_black(decoder: Decoder) -> None:
    data = png(Image.new("RGB", (40, 40), "white"))
    with decoder.open(data, probe(data), side=640) as picture:
        (beside, across), _ = picture.cut(
            [(1.0, 0.0, 500.0, 0.0, 1.0, 0.0), (1.0, 0.0, -20.0, 0.0, 1.0, -20.0)], 40
        )
    assert beside.max() == 0
    assert across[:19, :19].max() == 0
    assert across[21:, 21:].min() == 255


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_is_accepted_and_a_cut_one_is_not(
    decoder: Decoder, progressive: bool
) -> None:
    data = jpeg(photo(300, 200), progressive=progressive)
    assert distance(opened(decoder, data[:-2]), opened(decoder, data)) == 0
    assert distance(opened(decoder, data[:-1]), opened(decoder, data)) == 0
    first = data.index(b"\xff\xda")
    for part in (0.1, 0.5, 0.9):
        assert reason(decoder, data[: first + 20 + int((len(data) - first - 20) * part)]) == (
            "truncated"
        )


def test_a_large_cut_jpeg_is_truncated_at_every_reduction(decoder: Decoder) -> None:
    data = jpeg(photo(4000, 3000), quality=70)
    assert reason(decoder, data[: len(data) // 2]) == "truncated"
    assert opened(decoder, data[:-2]).shape == (480, 640, 3)


def test_pngs_that_lie_about_their_size_fail(decoder: Decoder) -> None:
    honest = png()
    short = honest[:16] + (960).to_bytes(4, "big") + (640).to_bytes(4, "big") + honest[24:]
    assert reason(decoder, short) in ("truncated", "decoder_failed")
    unpacked = hostile.png_of(
        hostile.png_header(64, 64), (b"IDAT", b"no zlib stream"), (b"IEND", b"")
    )
    assert reason(decoder, unpacked) in ("truncated", "decoder_failed")
    assert reason(decoder, hostile.webp_header(64, 64)) in ("truncated", "decoder_failed")


@pytest.mark.parametrize(
    ("data", "megabytes"),
    [
        (lambda: hostile.black_png(4120, 4120), 130),
        (lambda: webp(Image.new("RGBA", (4120, 4120), (9, 9, 9, 99)), method=0), 180),
        (lambda: webp(Image.new("RGB", (4120, 4120)), lossless=True, method=0, quality=0), 180),
        (lambda: jpeg(Image.new("RGB", (5000, 5000)), progressive=True, subsampling=0), 220),
        (lambda: jpeg(Image.new("CMYK", (5000, 5000)), progressive=True), 280),
        (lambda: jpeg(Image.new("RGB", (10000, 5000))), 110),
    ],
    ids=["png", "webp", "webp-lossless", "progressive", "progressive-cmyk", "baseline"],
)
def test_the_largest_pictures_allowed_are_decoded_within_memory(
    data: Callable[[], bytes], megabytes: int
) -> None:
    made = data()
    decoder = Decoder(wall_seconds=60)
    try:
        with decoder.open(made, probe(made), side=640) as picture:
            assert max(picture.image.shape) == 640
            picture.cut([IDENTITY], 160, finer=True)
            with open(f"/proc/{decoder.pid}/status") as file:
                (peak,) = (line.split()[1] for line in file if line.startswith("VmHWM"))
        assert int(peak) / 1024 < megabytes
    finally:
        decoder.close()


def test_webp_is_reduced_while_it_is_decoded(decoder: Decoder) -> None:
    large = photo(2600, 1800)
    for data in (webp(large, lossless=True, method=0), webp(large, quality=95, method=0)):
        reduced = opened(decoder, data)
        assert distance(reduced, opened(decoder, png(large, compress_level=1))) < 2
    see_through = large.convert("RGBA")
    see_through.putalpha(0)
    assert opened(decoder, webp(see_through, lossless=True, method=0)).min() == 255


def test_bytes_behind_the_end_change_nothing(decoder: Decoder) -> None:
    for data in (jpeg(), png(), webp()):
        assert np.array_equal(
            opened(decoder, data + b"PK\x03\x04<script>" * 99), opened(decoder, data)
        )


def test_of_an_animation_the_first_frame_is_seen(decoder: Decoder) -> None:
    frames = [photo(seed=n) for n in range(3)]
    for data in (
        webp(frames[0], save_all=True, append_images=frames[1:], lossless=True),
        png(frames[0], save_all=True, append_images=frames[1:]),
    ):
        assert np.array_equal(opened(decoder, data), bgr(frames[0]))


def test_flipped_bits_give_pixels_or_an_image_error_and_the_child_lives(decoder: Decoder) -> None:
    rng = np.random.default_rng(7)
    sources = [jpeg(photo(200, 150)), jpeg(progressive=True), png(), webp(), webp(lossless=True)]
    seen = {"pixels": 0, "refused": 0}
    decoder.warm()
    first = decoder.pid
    for number in range(150):
        mutated = bytearray(sources[number % len(sources)])
        for at in rng.integers(20, len(mutated), 4):
            mutated[at] ^= 1 << int(rng.integers(0, 8))
        try:
            opened(decoder, bytes(mutated))
            seen["pixels"] += 1
        except ImageError:
            seen["refused"] += 1
    assert seen["pixels"] > 10
    assert seen["refused"] > 10
    assert decoder.pid == first
