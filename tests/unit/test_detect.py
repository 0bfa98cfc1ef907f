"""How the detector's grids become faces, with a network that the test writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces.detect import (
    STRIDES,
    TILE,
    TILE_OVERLAP,
    Detector,
    decode_cells,
    suppress,
    tiles,
)
from faces.types import Box, Detection, Pixels

BLANK: Pixels = np.zeros((480, 640, 3), np.uint8)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


class Marks:
    """A network that sees a face around every pure red mark; it lies under the right eye."""

    def __init__(self, size: float = 40.0, confidence: float = 0.95) -> None:
        self.size, self.confidence = size, confidence
        self.shapes: list[tuple[int, int]] = []

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
        image = inputs["image"][0]
        height, width = image.shape[:2]
        self.shapes.append((width, height))
        assert height % 32 == 0
        assert width % 32 == 0
        outputs = [np.full((1, 16, height // s, width // s), -9.0, np.float32) for s in STRIDES]
        ys, xs = np.nonzero((image == (0, 0, 255)).all(axis=2))
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            row, column = y // 8, x // 8
            cell = outputs[0][0, :, row, column]
            cell[:2] = logit(self.confidence)
            cell[2:4] = (x + 0.5) / 8 - column, (y + 0.5) / 8 - row
            cell[4:6] = math.log(self.size / 8)
            for n, (dx, dy) in enumerate(((0, 0), (9, 0), (5, 5), (1, 9), (8, 9))):
                cell[6 + 2 * n] = (x + 0.5 + dx) / 8 - column
                cell[7 + 2 * n] = (y + 0.5 + dy) / 8 - row
        return outputs


def marked(*points: tuple[int, int], width: int = 640, height: int = 480) -> Pixels:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in points:
        image[y, x] = (0, 0, 255)
    return image


def test_a_cell_becomes_a_box_with_landmarks_in_pixels() -> None:
    (found,) = Detector(Marks(40)).detect(marked((100, 60)))
    box = found.box
    assert (box.x, box.y, box.width, box.height) == pytest.approx((80.5, 40.5, 40, 40))
    assert found.confidence == pytest.approx(0.95)
    assert found.landmarks[0] == pytest.approx((100.5, 60.5))
    assert found.landmarks[4] == pytest.approx((108.5, 69.5))


def test_it_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    output = rng.normal(0, 1.5, (16, 6, 9)).astype(np.float32)
    expected = []
    for row in range(6):
        for column in range(9):
            c = output[:, row, column].astype(float)
            sure = math.sqrt(1 / (1 + math.exp(-c[0])) * (1 / (1 + math.exp(-c[1]))))
            if sure < 0.6:
                continue
            w, h = math.exp(c[4]) * 16, math.exp(c[5]) * 16
            x, y = (column + c[2]) * 16 - w / 2, (row + c[3]) * 16 - h / 2
            marks = [(c[6 + i] + (column, row)[i % 2]) * 16 for i in range(10)]
            expected.append([x, y, w, h, *marks, sure])
    assert len(expected) > 3
    np.testing.assert_allclose(decode_cells(output, 16, 0.6), expected, rtol=1e-4, atol=1e-3)


def test_absurd_outputs_do_not_overflow_into_warnings() -> None:
    output = np.full((16, 2, 2), 1000.0, np.float32)
    output[:2, 0, 0] = -1000.0
    rows = decode_cells(output, 8, 0.6)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(("width", "height"), [(640, 1), (1, 640), (16, 16), (640, 70), (63, 64)])
def test_any_shape_can_be_looked_at(width: int, height: int) -> None:
    empty = np.zeros((height, width, 3), np.uint8)
    assert (
        Detector(Marks()).detect(empty, lambda: np.zeros((height * 2, width * 2, 3), np.uint8))
        == []
    )


@pytest.mark.parametrize("where", [(0, 0), (639, 479), (0, 479), (320, 0)])
def test_a_doubtful_face_at_the_rim_can_be_looked_at_turned(where: tuple[int, int]) -> None:
    found = Detector(Marks(90, confidence=0.85)).detect(marked(where))
    assert len(found) == 1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (33, 31), (16, 16), (641, 639)])
def test_any_size_is_padded_to_what_the_network_takes(width: int, height: int) -> None:
    network = Marks(10)
    (found,) = Detector(network).detect(marked((12, 12), width=width, height=height))
    assert network.shapes[0] == (-(-width // 32) * 32, -(-height // 32) * 32)
    assert found.landmarks[0] == pytest.approx((12.5, 12.5))


def test_only_what_is_sure_enough_counts() -> None:
    assert Detector(Marks(confidence=0.59)).detect(marked((100, 60))) == []
    assert len(Detector(Marks(confidence=0.61)).detect(marked((100, 60)))) == 1
    assert len(Detector(Marks(confidence=0.5), min_confidence=0.4).detect(marked((99, 60)))) == 1


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_picture_is_looked_at_turned(quarters: int) -> None:
    class OnlyUpright(Marks):
        """Sees the mark only where the picture's corner is green: at the upright's top left."""

        def run(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
            outputs = super().run(inputs)
            if tuple(inputs["image"][0, 0, 0]) != (0, 255, 0):
                return [np.full_like(output, -9.0) for output in outputs]
            return outputs

    upright = marked((200, 60), width=320, height=256)
    upright[0, 0] = (0, 255, 0)
    image = np.rot90(upright, quarters)
    (found,) = Detector(OnlyUpright(30)).detect(image)
    y, x = (int(v[0]) for v in np.nonzero((image == (0, 0, 255)).all(axis=2)))
    assert found.landmarks[0] == pytest.approx((x + 0.5, y + 0.5))
    assert found.box.x + found.box.width / 2 == pytest.approx(x + 0.5)
    assert found.box.y + found.box.height / 2 == pytest.approx(y + 0.5)
    # The left eye lies 9 px to the right of the right one when upright.
    dx = found.landmarks[1][0] - found.landmarks[0][0]
    dy = found.landmarks[1][1] - found.landmarks[0][1]
    assert (dx, dy) == pytest.approx({1: (0, -9), 2: (-9, 0), 3: (0, 9)}[quarters], abs=1e-4)


def test_a_face_that_fills_the_picture_is_found_at_half_the_size() -> None:
    class OnlySmall(Marks):
        def run(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
            outputs = super().run(inputs)
            if inputs["image"].shape[2] > 320:
                return [np.full_like(output, -9.0) for output in outputs]
            return outputs

    image = np.zeros((480, 640, 3), np.uint8)
    image[100:102, 200:202] = (0, 0, 255)
    (found,) = Detector(OnlySmall(150)).detect(image)
    assert found.box.width == pytest.approx(300)
    assert found.landmarks[0] == pytest.approx((201, 101))


def test_small_faces_call_for_a_closer_look_and_large_ones_do_not() -> None:
    larger = marked((200, 120), (1200, 900), width=1280, height=960)
    asked = []

    def closer() -> Pixels:
        asked.append(True)
        return larger

    class TwiceAsLargeWhenCloser(Marks):
        def run(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
            self.size = 15 if inputs["image"].shape[1:3] == (480, 640) else 30
            return super().run(inputs)

    found = Detector(TwiceAsLargeWhenCloser()).detect(marked((100, 60)), closer)
    assert asked
    # The first look's face and the same one seen closer are one face; the second is new.
    assert len(found) == 2
    asked.clear()
    assert len(Detector(Marks(40)).detect(marked((100, 60)), closer)) == 1
    assert not asked
    new = max(found, key=lambda d: d.box.x)
    assert new.landmarks[0] == pytest.approx((1200.5 / 2, 900.5 / 2))
    assert new.box.width == pytest.approx(15)


def test_a_closer_look_never_exceeds_a_tile() -> None:
    network = Marks(15)
    larger = marked((2000, 1700), width=2560, height=1920)
    (found,) = Detector(network).detect(BLANK, lambda: larger)
    assert max(max(shape) for shape in network.shapes) <= TILE
    assert found.landmarks[0] == pytest.approx((2000.5 / 4, 1700.5 / 4))


def test_large_faces_of_a_closer_look_are_left_to_the_first() -> None:
    larger = marked((600, 600), width=1280, height=960)
    assert Detector(Marks(TILE_OVERLAP + 1)).detect(BLANK, lambda: larger) == []


@given(st.integers(16, 4000), st.integers(16, 4000), st.data())
def test_every_small_face_lies_wholly_in_a_tile(
    width: int, height: int, data: st.DataObject
) -> None:
    w = data.draw(st.integers(1, min(width, TILE_OVERLAP)))
    h = data.draw(st.integers(1, min(height, TILE_OVERLAP)))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    assert any(
        left <= x and x + w <= left + TILE and top <= y and y + h <= top + TILE
        for left, top in tiles(width, height)
    )


boxes = st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(1, 50), st.floats(1, 50))


@given(st.lists(st.tuples(boxes, st.floats(0, 1)), min_size=1, max_size=20))
def test_suppression_keeps_the_surest_and_nothing_that_overlaps(
    items: list[tuple[tuple[float, float, float, float], float]],
) -> None:
    rows = np.zeros((len(items), 15), np.float32)
    for row, (box, sure) in zip(rows, items, strict=True):
        row[:4], row[14] = box, sure
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    kept = suppress(rows, 0.3)
    as_boxes = [Box(*map(float, row[:4])) for row in kept]
    assert kept[0, 14] == rows[0, 14]
    for n, one in enumerate(as_boxes):
        assert all(one.iou(other) <= 0.3 + 1e-4 for other in as_boxes[:n])
    for row in rows:
        box = Box(*map(float, row[:4]))
        assert any(box.iou(other) > 0.3 - 1e-4 or box == other for other in as_boxes)


def test_nothing_in_nothing() -> None:
    found: list[Detection] = Detector(Marks()).detect(BLANK)
    assert found == []
