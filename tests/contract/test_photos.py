"""The whole way from bytes to vectors, with the real models and the sample photos."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from faces.decoder import Decoder
from faces.detect import Detector
from faces.encode import OnnxEncoder
from faces.errors import ImageTooLarge, InvalidRequest
from faces.loading import largest
from faces.models import cards, files
from faces.pipeline import Pipeline
from faces.sessions import open_session
from faces.types import Analysis, Box, Detection, Face, Vector
from tests import hostile
from tests.opencv_reference import Reference

KEY = "facenet128"
CANVAS = 4000, 3000
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is stored under each orientation."""


@pytest.fixture(scope="module")
def detector(models_dir: Path) -> Detector:
    return Detector(open_session(files.detector_path(models_dir)))


@pytest.fixture(scope="module")
def encoder(models_dir: Path) -> OnnxEncoder:
    session = open_session(files.encoder_path(models_dir, KEY))
    return OnnxEncoder(session, cards.card(KEY), files.build_sha256(models_dir, KEY))


@pytest.fixture(scope="module")
def pipeline(detector: Detector, encoder: OnnxEncoder) -> Iterator[Pipeline]:
    pipeline = Pipeline(Decoder(), detector, encoder, alignment=cards.card(KEY).alignment)
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def photos(samples_dir: Path) -> list[Path]:
    found = sorted(samples_dir.glob("*/*/*"))
    assert len(found) == 118
    return found


@pytest.fixture(scope="module")
def some(photos: list[Path]) -> list[Image.Image]:
    """Eight sample photos."""
    return [Image.open(path).convert("RGB") for path in photos[::15]]


def largest_face(pipeline: Pipeline, data: bytes) -> Face:
    faces = pipeline.analyse(data, choose=largest).faces
    assert faces, "no face was found"
    return faces[0]


def cosine(one: Face, other: Face) -> float:
    assert one.embedding is not None
    assert other.embedding is not None
    return float(one.embedding @ other.embedding)


def png(image: Image.Image) -> bytes:
    return hostile.png(image, compress_level=1)


def in_a_large_photo(photo: Image.Image, share: float) -> Image.Image:
    """A 12-megapixel picture in which the photo takes this share of the height."""
    width, height = CANVAS
    grow = min(width / photo.width, height / photo.height) * share
    pasted = photo.resize(
        (round(photo.width * grow), round(photo.height * grow)), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", CANVAS, (120, 110, 90))
    canvas.paste(pasted, ((width - pasted.width) // 3, (height - pasted.height) // 3))
    return canvas


@pytest.fixture(scope="module")
def reference(models_dir: Path) -> Reference:
    return Reference(models_dir)


def test_every_sample_photo_has_a_face_and_nothing_is_lost_against_opencv(
    photos: list[Path], detector: Detector, reference: Reference
) -> None:
    for path in photos:
        image = np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1].copy()
        ours, theirs = detector.detect(image), reference.detect(image)
        assert ours
        assert len(ours) >= len(theirs)
        for row in theirs:
            box = Box(*(float(v) for v in row[:4]))
            best = max(ours, key=lambda d: d.box.iou(box))
            assert best.box.iou(box) >= 0.95
            assert np.abs(np.array(best.landmarks).ravel() - row[4:14]).max() <= 1
            assert best.confidence == pytest.approx(float(row[14]), abs=0.01)


def test_crops_and_vectors_agree_with_an_independent_way(
    photos: list[Path], pipeline: Pipeline, encoder: OnnxEncoder, reference: Reference
) -> None:
    for path in photos[::10]:
        data = path.read_bytes()
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        expected = encoder.encode(reference.crop(decoded)[None])[0]
        found = largest_face(pipeline, data).embedding
        assert found is not None
        assert float(expected @ found) >= 0.999


@pytest.mark.parametrize("share", [0.9, 0.4, 0.2])
def test_a_large_jpeg_gives_the_vector_of_its_full_decode(
    share: float,
    some: list[Image.Image],
    pipeline: Pipeline,
    encoder: OnnxEncoder,
    reference: Reference,
) -> None:
    for photo in some[::3]:
        large = in_a_large_photo(photo, share)
        data = hostile.jpeg(large, quality=92)
        found = largest_face(pipeline, data)
        # Stored as PNG the same pixels cannot be decoded reduced.
        decoded = Image.open(io.BytesIO(data))
        assert cosine(found, largest_face(pipeline, png(decoded))) >= 0.99
        crop = reference.crop(np.asarray(decoded)[:, :, ::-1])
        assert found.embedding is not None
        assert float(encoder.encode(crop[None])[0] @ found.embedding) >= 0.98


@pytest.mark.parametrize("value", STORED)
def test_turned_copies_are_the_same_face_in_the_same_place(
    value: int, some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in some[:4]:
        upright = largest_face(pipeline, png(photo))
        stored = hostile.with_chunks(
            png(photo.transpose(STORED[value])), (b"eXIf", hostile.exif(value))
        )
        turned = largest_face(pipeline, stored)
        assert cosine(upright, turned) >= 0.99
        assert upright.detection.box.iou(turned.detection.box) >= 0.95
        block = b"Exif\0\0" + hostile.exif(value, order="<")
        lossy = largest_face(
            pipeline,
            hostile.jpeg(photo.transpose(STORED[value]), quality=98, subsampling=0, exif=block),
        )
        assert cosine(upright, lossy) >= 0.99
        assert upright.detection.box.iou(lossy.detection.box) >= 0.9


@pytest.mark.parametrize("value", [3, 6, 8])
def test_photos_lying_on_their_side_are_recognised(
    value: int, some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in some:
        upright = largest_face(pipeline, png(photo))
        turned = largest_face(pipeline, png(photo.transpose(STORED[value])))
        # OpenCV's pixel centres, which the crop follows, shift it by half a pixel when turned.
        assert cosine(upright, turned) >= 0.95
        assert turned.detection.box.area == pytest.approx(upright.detection.box.area, rel=0.05)


@pytest.mark.parametrize(
    "encode",
    [
        lambda photo: hostile.jpeg(photo.convert("CMYK"), quality=98, subsampling=0),
        lambda photo: hostile.png(photo.convert("RGBA")),
        lambda photo: hostile.webp(photo, lossless=True),
        lambda photo: hostile.jpeg(photo, quality=98, subsampling=0, progressive=True),
    ],
    ids=["cmyk", "alpha", "webp", "progressive"],
)
def test_the_way_of_storing_does_not_matter(
    encode: Any, some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in some[::2]:
        plain, other = largest_face(pipeline, png(photo)), largest_face(pipeline, encode(photo))
        assert cosine(plain, other) >= 0.99


def test_grey_palette_and_sixteen_bits_equal_their_rgb(
    some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in some[::3]:
        grey = photo.convert("L")
        palette = photo.quantize(256)
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        for stored, plain in ((grey, grey), (palette, palette), (deep, grey)):
            found = largest_face(pipeline, png(stored))
            assert cosine(found, largest_face(pipeline, png(plain.convert("RGB")))) >= 0.999


def sheet(some: list[Image.Image], detector: Detector, size: int) -> tuple[Image.Image, int]:
    """A 1600 x 1200 picture full of faces `size` pixels wide, and their number."""
    cut = []
    for photo in some:
        box = detector.detect(np.asarray(photo)[:, :, ::-1].copy())[0].box
        around = 0.4 * box.width
        edges = (box.x - around, box.y - around, box.x + box.width + around)
        part = photo.crop((*map(round, edges), round(box.y + box.height + around)))
        grow = size / box.width
        cut.append(part.resize((round(part.width * grow), round(part.height * grow))))
    canvas, count, step = Image.new("RGB", (1600, 1200), (127, 127, 127)), 0, round(size * 2.6)
    for y in range(0, 1200 - step, step):
        for x in range(0, 1600 - step, step):
            canvas.paste(cut[count % len(cut)], (x, y))
            count += 1
    return canvas, count


@pytest.mark.parametrize(("size", "recall"), [(160, 1.0), (60, 0.98), (30, 0.95), (20, 0.9)])
def test_crowds_are_found_at_every_size(
    size: int,
    recall: float,
    some: list[Image.Image],
    detector: Detector,
    pipeline: Pipeline,
    reference: Reference,
) -> None:
    canvas, count = sheet(some, detector, size)
    analysis = pipeline.analyse(png(canvas), choose=lambda faces: [])
    small = cv2.resize(np.asarray(canvas)[:, :, ::-1], (640, 480), interpolation=cv2.INTER_AREA)
    found = len(analysis.faces)
    assert found >= recall * count
    assert found >= 0.99 * len(reference.detect(small))
    areas = [face.detection.box.area for face in analysis.faces]
    assert areas == sorted(areas, reverse=True)


def test_all_faces_are_told_and_only_the_chosen_are_encoded(
    some: list[Image.Image], pipeline: Pipeline
) -> None:
    both = Image.new("RGB", (some[0].width + some[1].width, max(p.height for p in some[:2])))
    both.paste(some[0], (0, 0))
    both.paste(some[1], (some[0].width, 0))
    analysis = pipeline.analyse(png(both), choose=lambda faces: [len(faces) - 1])
    assert len(analysis.faces) >= 2
    assert [face.embedding is not None for face in analysis.faces][-2:] == [False, True]
    assert analysis.picture.width == both.width
    assert set(analysis.timings_ms) == {"decode", "detect", "encode"}
    everyone = pipeline.analyse(png(both))
    assert all(face.embedding is not None for face in everyone.faces)
    for face in everyone.faces:
        assert face.embedding is not None
        assert float(np.linalg.norm(face.embedding)) == pytest.approx(1, abs=1e-5)


def test_known_faces_give_the_vectors_of_detected_ones(
    some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in (some[2], in_a_large_photo(some[3], 0.2)):
        data = hostile.jpeg(photo, quality=92)
        found = pipeline.analyse(data)
        known = pipeline.embed_known(data, [face.detection for face in found.faces])
        for one, other in zip(found.faces, known.faces, strict=True):
            assert cosine(one, other) >= 0.9999
            assert one.quality == other.quality


@pytest.mark.parametrize("point", [(5.0, 5.0), (1e300, 5.0), (float("nan"), 5.0)])
def test_known_faces_without_sense_are_the_callers_fault(
    point: tuple[float, float], pipeline: Pipeline
) -> None:
    marks = (point, (5.0, 5.0), (5.0, 5.0), (5.0, 5.0), (5.0, 5.0))
    with pytest.raises(InvalidRequest, match="landmarks"):
        pipeline.embed_known(hostile.png(), [Detection(Box(0, 0, 9, 9), 1, marks)])


def test_a_kept_crop_is_small_and_still_the_same_person(
    some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in (*some[:3], in_a_large_photo(some[4], 0.3)):
        data = hostile.jpeg(photo, quality=95)
        face = largest_face(pipeline, data)
        crop, again = pipeline.crops(data, [face.detection.box] * 2)
        assert crop == again == pipeline.crop(data, face.detection.box)
        assert len(crop) <= 20_000
        assert cosine(face, largest_face(pipeline, crop)) >= 0.9


@pytest.mark.parametrize("value", [1, 6])
def test_a_thumbnail_is_upright_and_bounded(
    value: int, some: list[Image.Image], pipeline: Pipeline
) -> None:
    stored = some[0] if value == 1 else some[0].transpose(STORED[value])
    data = hostile.jpeg(stored, exif=b"Exif\0\0" + hostile.exif(value))
    for side in (320, 64):
        thumbnail = Image.open(io.BytesIO(pipeline.thumbnail(data, side)))
        assert max(thumbnail.size) == min(side, max(some[0].size))
        assert (thumbnail.width > thumbnail.height) == (some[0].width > some[0].height)
        plain = np.asarray(some[0].resize(thumbnail.size)).astype(int)
        assert np.abs(np.asarray(thumbnail.convert("RGB")).astype(int) - plain).mean() < 12


def test_a_photo_whose_faces_are_hidden_has_none(
    some: list[Image.Image], pipeline: Pipeline
) -> None:
    for photo in some:
        hidden = photo.copy()
        for face in pipeline.analyse(png(photo), choose=lambda faces: []).faces:
            box = face.detection.box
            around = 0.5 * max(box.width, box.height)
            corner = round(box.x - around), round(box.y - around)
            size = round(box.width + 2 * around), round(box.height + 2 * around)
            hidden.paste(Image.new("RGB", size, (120, 118, 115)), corner)
        assert pipeline.analyse(png(hidden)).faces == ()


def test_a_picture_without_a_face_has_none(pipeline: Pipeline) -> None:
    rng = np.random.default_rng(5)
    noise = Image.fromarray(rng.integers(0, 256, (400, 600, 3), dtype=np.uint8))
    for image in (Image.new("RGB", (640, 480)), noise, hostile.photo(500, 400, seed=3)):
        analysis: Analysis = pipeline.analyse(png(image))
        assert analysis.faces == ()


def test_the_byte_cap_holds(detector: Detector, encoder: OnnxEncoder) -> None:
    decoder = Decoder()
    capped = Pipeline(decoder, detector, encoder, alignment="facenet5", max_bytes=100)
    try:
        with pytest.raises(ImageTooLarge):
            capped.analyse(hostile.png())
        with pytest.raises(ImageTooLarge):
            capped.thumbnail(hostile.png())
        assert decoder.pid is None
    finally:
        capped.close()


def test_a_vector_is_the_same_every_time(some: list[Image.Image], pipeline: Pipeline) -> None:
    vectors: list[Vector] = []
    for _ in range(2):
        face = largest_face(pipeline, png(some[5]))
        assert face.embedding is not None
        vectors.append(face.embedding)
    assert np.array_equal(*vectors)
