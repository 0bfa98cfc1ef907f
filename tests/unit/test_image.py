"""What a header says, and every header that is refused, each with its own reason."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from faces.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from faces.exif import orientation
from faces.image import Header, decodable, probe
from tests import hostile
from tests.hostile import jpeg, photo, png, png_header, png_of, segment, webp


def reason(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        probe(data)
    return caught.value.reason


@contextmanager
def at_most(lines: int) -> Iterator[None]:
    """Let no more lines of Python run than this: work is counted, as seconds tell of machines."""
    left, before = lines, sys.gettrace()

    def step(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        left -= event == "line"
        assert left >= 0, f"more than {lines:,} lines of work"
        return step

    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (jpeg(), Header("JPEG", 96, 64)),
        (jpeg(progressive=True), Header("JPEG", 96, 64, progressive=True)),
        (jpeg(photo().convert("L")), Header("JPEG", 96, 64)),
        (jpeg(photo().convert("CMYK")), Header("JPEG", 96, 64)),
        (jpeg(exif=b"Exif\0\0" + hostile.exif(6)), Header("JPEG", 64, 96, 6)),
        (png(), Header("PNG", 96, 64)),
        (png(photo().convert("1")), Header("PNG", 96, 64)),
        (webp(), Header("WEBP", 96, 64)),
        (webp(lossless=True), Header("WEBP", 96, 64)),
        (webp(photo().convert("RGBA")), Header("WEBP", 96, 64)),
    ],
)
def test_it_reads_what_honest_encoders_write(data: bytes, header: Header) -> None:
    assert probe(data) == header


@pytest.mark.parametrize("value", range(1, 9))
def test_the_upright_size_follows_the_orientation(value: int) -> None:
    turned = value >= 5
    for data in (
        jpeg(exif=b"Exif\0\0" + hostile.exif(value, order="<")),
        hostile.with_chunks(png(), (b"eXIf", hostile.exif(value))),
        webp(exif=hostile.exif(value)),
    ):
        header = probe(data)
        assert (header.orientation, header.width, header.height) == (
            value,
            *((64, 96) if turned else (96, 64)),
        )
        assert header.stored_size == (96, 64)


@pytest.mark.parametrize(
    "block",
    [
        hostile.exif(0),
        hostile.exif(9),
        hostile.exif(99),
        hostile.exif(6, kind=4),
        hostile.exif(6)[:-6],
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*" + struct.pack(">IH", 8, 65535),
        b"",
        b"Exif\0\0",
        b"XX*\0" + bytes(30),
    ],
)
def test_a_broken_orientation_is_ignored(block: bytes) -> None:
    assert orientation(block) == 1
    assert probe(hostile.after_start(jpeg(), segment(0xE1, b"Exif\0\0" + block))).orientation == 1


def tiff(*entries: tuple[int, int, int, int], order: str = ">") -> bytes:
    """A TIFF block of these (tag, kind, count, value) entries and nothing behind them."""
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8)
    rows = [struct.pack(order + "HHIHH", *entry, 0) for entry in entries]
    return head + struct.pack(order + "H", len(rows)) + b"".join(rows)


def test_the_orientation_is_found_among_other_tags() -> None:
    others = [(0x010F, 2, 4, 0), (0x0110, 2, 4, 0), (0x0111, 3, 1, 5)]
    wanted = (0x0112, 3, 1, 6)
    for order in "<>":
        for n in range(4):
            entries = [*others[:n], wanted, *others[n:]]
            assert orientation(tiff(*entries, order=order)) == 6
    assert orientation(tiff(*others)) == 1


def test_the_orientation_needs_all_its_bytes_and_its_own_type() -> None:
    whole = tiff((0x0112, 3, 1, 8))
    assert orientation(whole) == 8
    for length in range(len(whole)):
        assert orientation(whole[:length]) == 1
    assert orientation(tiff((0x0112, 3, 2, 8))) == 1
    assert orientation(tiff((0x0112, 4, 1, 8))) == 1
    assert orientation(tiff((0x0112, 3, 1, 9))) == 1
    assert orientation(tiff((0x0112, 3, 1, 0))) == 1


def test_a_directory_may_begin_anywhere_in_the_block() -> None:
    inner = tiff((0x0112, 3, 1, 3))[8:]
    assert orientation(b"MM\0*" + struct.pack(">I", 20) + bytes(12) + inner) == 3
    assert orientation(b"MM\0*" + struct.pack(">I", 2**31) + bytes(12) + inner) == 1


@given(st.binary(max_size=200))
def test_no_exif_block_raises(block: bytes) -> None:
    assert 1 <= orientation(b"MM\0*" + block) <= 8


def test_nothing_is_empty() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize("data", [jpeg(), jpeg(progressive=True), png(), webp()])
def test_a_header_alone_is_truncated(data: bytes) -> None:
    for length in (2, 3, 10, 20, 30, 40):
        with pytest.raises((InvalidImage, UnsupportedImage)) as caught:
            probe(data[:length])
        if isinstance(caught.value, InvalidImage):
            assert caught.value.reason == "truncated"
        else:
            assert data.startswith(b"RIFF")  # too short to be told from a sound file
            assert length <= 10


def test_a_jpeg_cut_within_its_scan_is_left_to_the_decoder() -> None:
    header = probe(jpeg()[:-40])
    assert not header.complete


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (hostile.with_size(jpeg(), 65535, 65535), "too_many_pixels"),
        (hostile.with_size(jpeg(), 13000, 13000), "too_many_pixels"),
        (hostile.with_size(jpeg(), 10000, 5001), "too_many_pixels"),
        (hostile.with_size(jpeg(progressive=True), 5001, 5000), "too_many_pixels"),
        (png_of(png_header(32000, 32000), (b"IDAT", b""), (b"IEND", b"")), "too_many_pixels"),
        (png_of(png_header(2**31, 2**31), (b"IDAT", b""), (b"IEND", b"")), "too_many_pixels"),
        (png_of(png_header(17001, 1000), (b"IDAT", b""), (b"IEND", b"")), "too_many_pixels"),
        (hostile.webp_header(16383, 16383), "too_many_pixels"),
        (jpeg(photo(1, 1)), "dimensions"),
        (jpeg(photo(15, 600)), "dimensions"),
        (png(Image.new("L", (100_000, 1))), "dimensions"),
        (png(Image.new("L", (1, 100_000))), "dimensions"),
        (hostile.with_size(jpeg(), 0, 0), "dimensions"),
        (hostile.with_size(jpeg(), 600, 0), "dimensions"),
        (hostile.many_scans(80), "too_many_scans"),
        (hostile.many_scans(2006), "too_many_scans"),
        (hostile.hidden_scans(0x02), "too_many_scans"),
        (hostile.hidden_scans(0xBF), "too_many_scans"),
        (hostile.hidden_scans(0xF0), "too_many_scans"),
        (hostile.after_start(jpeg(), segment(0xC0, bytes(15))), "decoder_failed"),
        (png_of((b"IDAT", b""), (b"IEND", b"")), "decoder_failed"),
        (png_of(png_header(64, 64), (b"IEND", b"")), "truncated"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", "decoder_failed"),
        (b"RIFF\x04\0\0\0WEBP", "truncated"),
    ],
)
def test_each_bomb_has_its_reason_in_no_time_and_memory(data: bytes, expected: str) -> None:
    tracemalloc.start()
    try:
        with at_most(lines=50_000):
            found = reason(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == expected
    assert peak < 5 * 2**20


def test_at_the_limits_a_header_passes() -> None:
    assert probe(hostile.with_size(jpeg(), 10000, 5000)).pixels == 50_000_000
    assert probe(hostile.with_size(jpeg(progressive=True), 5000, 5000)).pixels == 25_000_000
    assert probe(jpeg(photo(16, 16))).pixels == 256
    assert probe(hostile.many_scans(50)).progressive


def test_exactly_64_scans_are_accepted() -> None:
    before = hostile.many_scans(1).count(b"\xff\xda")
    assert probe(hostile.many_scans(65 - before)).progressive
    assert reason(hostile.many_scans(66 - before)) == "too_many_scans"


def test_a_thumbnail_inside_the_metadata_is_no_scan_and_no_end() -> None:
    inside = hostile.many_scans(100)
    data = hostile.after_start(
        jpeg(), segment(0xE1, b"Exif\0\0" + hostile.exif(3) + inside[:60000])
    )
    assert probe(data) == Header("JPEG", 96, 64, 3)


def test_bytes_behind_the_end_are_ignored() -> None:
    script = b"<script>alert(1)</script>PK\x03\x04" + b"\xff\xda" * 500
    for data in (jpeg(), png(), webp()):
        assert probe(data + script) == probe(data)


def faulty(content: bytes) -> bytes:
    """A zlib stream that holds the content, and then what is no block."""
    packer = zlib.compressobj(9)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) + b"\7" * 8


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**20), 9))] * 400,
        [(b"iCCP", b"name\0\0" + zlib.compress(bytes(300 * 2**20), 9))],
        [(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(40 * 2**20), 9))],
        # What breaks off with a fault has been unpacked as well: 1,200 of these took 12 seconds.
        [(b"zTXt", b"key\0\0" + faulty(bytes(12 * 2**20)))] * 50,
    ],
)
def test_metadata_that_grows_is_refused_with_bounded_memory(
    chunks: list[tuple[bytes, bytes]],
) -> None:
    data = hostile.with_chunks(png(), *chunks)
    tracemalloc.start()
    try:
        assert reason(data) == "decoder_failed"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 70 * 2**20


def test_modest_metadata_is_accepted_and_never_reaches_the_decoder() -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(b"hello" * 1000))
    data = hostile.with_chunks(png(), text, (b"tEXt", b"a\0b"), (b"iCCP", b"x\0\0broken"))
    sent = decodable(data, probe(data))
    assert b"zTXt" not in sent
    assert b"iCCP" not in sent
    assert sent == decodable(png(), probe(png()))


def test_of_an_animation_only_the_first_frame_is_handed_on() -> None:
    frames = [photo(seed=n) for n in range(4)]
    moving = webp(frames[0], save_all=True, append_images=frames[1:], lossless=True)
    sent = decodable(moving, probe(moving))
    assert b"ANIM" not in sent
    assert len(sent) < len(moving) / 2
    apng = png(frames[0], save_all=True, append_images=frames[1:])
    assert probe(apng) == Header("PNG", 96, 64)
    assert b"fdAT" not in decodable(apng, probe(apng))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(inner)) + inner + bytes(len(inner) & 1)
        for kind, inner in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def test_frames_of_a_webp_without_pixels_are_passed_over() -> None:
    """Such a one ended in an error that nobody foresaw."""
    still = webp(lossless=True)
    alpha = riff((b"ALPH", b"\0abc"))[12:]
    frames = [(b"ANMF", bytes(16) + inner) for inner in (b"", alpha, still[12:])]
    data = riff(*frames)
    assert probe(data) == probe(still)
    assert decodable(data, probe(data)) == decodable(still, probe(still))


def test_of_many_alpha_chunks_of_a_webp_the_decoder_gets_its_own() -> None:
    """Twenty thousand of them, copied one after the other, took this process a minute."""
    half = photo().convert("RGBA")
    half.putalpha(128)
    sound = webp(half)
    at = sound.index(b"ALPH")
    data = sound[:at] + riff((b"ALPH", b"\0abc"), (b"ALPH", b"\0defg"))[12:] + sound[at:]
    assert decodable(data, probe(data)) == decodable(sound, probe(sound))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(50), "GIF"),
        (b"\0\0\0\x20ftypheic" + bytes(50), "HEIC"),
        (b"\0\0\0\x20ftypavif" + bytes(50), "AVIF"),
        (b"II*\0" + bytes(50), "TIFF"),
        (b"BM" + bytes(50), "BMP"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://x/"/></svg>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"<!DOCTYPE html><html></html>", ""),
        (b"just a text, named .jpg", ""),
        (b"GIF89a/*<jpeg>*/=1;alert(1)", "GIF"),
        (b"P6 30000 30000 255\n", ""),
        (b"#?RADIANCE\n", ""),
        (b"\0", ""),
    ],
)
def test_another_format_is_named_with_what_is_accepted(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"{name}.*Accepted are JPEG, PNG and WebP"):
        probe(data)


def test_more_bytes_than_the_cap_are_refused_before_anything_else() -> None:
    with pytest.raises(ImageTooLarge, match="1,000 bytes"):
        probe(bytes(1001), max_bytes=1000)


@given(st.sampled_from(["jpeg", "png", "webp"]), st.data())
def test_no_mutation_raises_anything_but_an_image_error(kind: str, data: st.DataObject) -> None:
    sound = {"jpeg": jpeg(progressive=True), "png": png(), "webp": webp()}[kind]
    mutated = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, min(400, len(sound) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    cut = bytes(mutated[: data.draw(st.integers(1, len(mutated)))])
    try:
        header = probe(cut)
        decodable(cut, header)
    except ImageError:
        return
    assert header.pixels <= 50_000_000


def test_a_flood_of_tiny_chunks_is_bounded() -> None:
    flood = png_of(png_header(64, 64), (b"IDAT", b"")) + hostile.chunk(b"tEXt", b"") * 1_000_000
    with at_most(lines=4_000_000):
        assert reason(flood) == "decoder_failed"
    segments = hostile.after_start(jpeg(), segment(0xFE, b"") * 1_000_000)
    with at_most(lines=500_000):
        assert reason(segments) == "decoder_failed"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (hostile.after_start(jpeg(), b"\xff" * 14_000_000), None),
        (jpeg()[:2] + b"\xff" * 14_000_000, "truncated"),
        (jpeg()[:-2] + b"\xff\x01" * 7_000_000 + b"\xff\xda\0\2" * 80, "decoder_failed"),
    ],
    ids=["fill", "nothing but fill", "markers without a segment"],
)
def test_a_flood_of_markers_is_passed_over_at_once(data: bytes, expected: str | None) -> None:
    with at_most(lines=500_000):  # one by one it would be tens of millions
        if expected is None:
            assert probe(data).width == 96
        else:
            assert reason(data) == expected
