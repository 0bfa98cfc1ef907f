"""Faces in a picture: YuNet through ONNX Runtime, its priors and suppression in numpy.

YuNet (Wu et al. 2023) looks at three grids with cells of 8, 16 and 32 pixels. Each cell says how
sure it is of a face and where its box and five landmarks lie relative to the cell. It finds faces
of about 10 to 600 pixels, standing upright; what lies outside is looked for only when the first
answer calls for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from faces.types import Box, Detection, Pixels

STRIDES = (8, 16, 32)
MIN_CONFIDENCE = 0.6
RETRY_CONFIDENCE = 0.8
"""More is asked of what only a second try finds. The faces of all sample photos have it; shades on
a carpet and painted balls, looked at sideways, reach 0.73."""
SURE = 0.91
"""A face lying on its side may look like an upright one, but never this surely: of 118 sample
photos turned three ways, none reached it, and upright nine of ten did."""
RATHER_SURE, TURNED_MARGIN = 0.8, 0.03
SUPPRESSION_IOU = 0.3
MAX_CANDIDATES = 5000
SMALL = 20.0
"""Pixels of a face, shorter side, below which its like may have been overlooked."""
SMALLEST = 10.0
"""Pixels in the larger image below which the network guesses."""
TILE, TILE_OVERLAP = 640, 96
_LARGE_ENOUGH = 64
"""Pixels of the shorter side from which on a face could be too large."""
_MULTIPLE = 32
_MAX_LOGIT, _MAX_LOG_SIZE = 50.0, 10.0  # beyond any sense, before any overflow

Floats = npt.NDArray[np.float32]


class Network(Protocol):
    """Runs the detector's graph (`faces.models.yunet`)."""

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], /) -> list[npt.NDArray[Any]]:
        """The outputs for `{"image": uint8 (1, height, width, 3)}`."""
        ...


class Detector:
    """Finds faces in upright pictures."""

    def __init__(self, network: Network, *, min_confidence: float = MIN_CONFIDENCE) -> None:
        self._network = network
        self._min_confidence = min_confidence

    def detect(
        self, image: Pixels, closer: Callable[[], Pixels | None] | None = None
    ) -> list[Detection]:
        """Every face in a BGR image, surest first, in the image's own pixels.

        When there are small faces or none, `closer` is asked for a larger image of the same
        picture. Where still none is found, the image is looked at again at half its size: a face
        may fill it. When no face is quite sure, the image may lie on its side or stand on its
        head: it is looked at turned, too, and the position with the surer faces is taken.
        """
        found = self._pass(image, self._min_confidence)
        if closer is not None and (not len(found) or found[:, 2:4].min() < SMALL):
            found = self._with_closer_look(found, image, closer())
        if not len(found) and min(image.shape[:2]) >= _LARGE_ENOUGH:
            found = self._pass(_halved(image), max(self._min_confidence, RETRY_CONFIDENCE))
            found[:, :14] *= 2
        if not len(found) or found[0, 14] < SURE:
            found = self._upright_or_turned(found, image)
        return _detections(found)

    def _upright_or_turned(self, found: Floats, image: Pixels) -> Floats:
        """`found`, or what the turned image shows when its surest face is clearly surer.

        Around a face that is rather sure only its surroundings are looked at turned, and the
        whole image when they say so.
        """
        height, width = image.shape[:2]
        turns: tuple[int, ...] = (1, 3, 2)
        if len(found) and found[0, 14] >= RATHER_SURE:
            around = _surroundings(image, found[0])
            surest = {n: self._surest(np.rot90(around, n)) for n in (0, 1, 2, 3)}
            best_turn = max(surest, key=lambda n: surest[n])
            turns = (best_turn,) if surest[best_turn] > surest[0] + TURNED_MARGIN else ()
        best = found
        least = float(found[0, 14]) + TURNED_MARGIN if len(found) else RETRY_CONFIDENCE
        for quarters in turns:
            turned = self._pass(np.rot90(image, quarters), self._min_confidence)
            if len(turned) and turned[0, 14] > least:
                best, least = _turned_back(turned, quarters, width, height), float(turned[0, 14])
        return best

    def _surest(self, image: Pixels) -> float:
        """The confidence of the surest face in an image; 0 when there is none."""
        found = self._pass(image, self._min_confidence)
        return float(found[0, 14]) if len(found) else 0.0

    def _with_closer_look(self, found: Floats, image: Pixels, larger: Pixels | None) -> Floats:
        """`found` and the small faces that only the larger image shows.

        Those that were found keep their place: it is the one that the usual scale gives. The
        larger image is looked at by tiles, which costs no more memory than one; a face at most as
        large as the tiles' overlap lies wholly in one of them.
        """
        if larger is None:
            return found
        rows = []
        scale = np.array([image.shape[1] / larger.shape[1], image.shape[0] / larger.shape[0]])
        for left, top in tiles(larger.shape[1], larger.shape[0]):
            tile = larger[top : top + TILE, left : left + TILE]
            seen = self._pass(tile, self._min_confidence)
            sides = seen[:, 2:4]
            seen = seen[(sides.min(axis=1) >= SMALLEST) & (sides.max(axis=1) <= TILE_OVERLAP)]
            seen[:, :2] += (left, top)
            seen[:, 4:14] += np.tile((left, top), 5)
            seen[:, :14] *= np.tile(scale, 7)
            rows.append(seen)
        ranked = np.concatenate([found, _surest_first(np.concatenate(rows))])
        return _surest_first(suppress(ranked, SUPPRESSION_IOU))

    def _pass(self, image: Pixels, min_confidence: float) -> Floats:
        """Rows of x, y, width, height, ten landmark numbers and confidence, suppressed."""
        height, width = image.shape[:2]
        padded = np.zeros((1, _up(height), _up(width), 3), np.uint8)
        padded[0, :height, :width] = image
        outputs = self._network.run({"image": padded})
        rows = np.concatenate(
            [
                decode_cells(output[0], stride, min_confidence)
                for output, stride in zip(outputs, STRIDES, strict=True)
            ]
        )
        return suppress(_surest_first(rows)[:MAX_CANDIDATES], SUPPRESSION_IOU)


def tiles(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Left and top of overlapping tiles that cover an image of this size."""
    step = TILE - TILE_OVERLAP
    for top in range(0, max(1, height - TILE_OVERLAP), step):
        for left in range(0, max(1, width - TILE_OVERLAP), step):
            yield left, top


def decode_cells(output: Floats, stride: int, min_confidence: float) -> Floats:
    """The cells of one grid, (16, rows, columns), that are at least so sure: (n, 15) rows.

    A row is x, y, width, height, five landmarks and the confidence, which is the geometric mean
    of the class and the object probability.
    """
    probabilities = 1 / (1 + np.exp(-np.clip(output[:2], -_MAX_LOGIT, _MAX_LOGIT)))
    confidence = np.sqrt(probabilities[0] * probabilities[1])
    row, column = np.nonzero(confidence >= min_confidence)
    cells = output[2:, row, column].T  # (n, 14)
    origin = np.stack([column, row], axis=1).astype(np.float32)
    result = np.empty((len(cells), 15), np.float32)
    centre = (origin + cells[:, :2]) * stride
    size = np.exp(np.minimum(cells[:, 2:4], _MAX_LOG_SIZE)) * stride
    result[:, :2] = centre - size / 2
    result[:, 2:4] = size
    result[:, 4:14] = (cells[:, 4:] + np.tile(origin, 5)) * stride
    result[:, 14] = confidence[row, column]
    return result


def suppress(rows: Floats, max_iou: float) -> Floats:
    """The rows, surest first, without those that overlap a surer one by more than `max_iou`."""
    kept = []
    left, top = rows[:, 0], rows[:, 1]
    right, bottom = left + rows[:, 2], top + rows[:, 3]
    area = rows[:, 2] * rows[:, 3]
    alive = np.arange(len(rows))
    while alive.size:
        first, rest = alive[0], alive[1:]
        kept.append(first)
        width = np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest])
        height = np.minimum(bottom[first], bottom[rest]) - np.maximum(top[first], top[rest])
        shared = np.clip(width, 0, None) * np.clip(height, 0, None)
        alive = rest[shared <= max_iou * (area[first] + area[rest] - shared)]
    return rows[kept]


def _surest_first(rows: Floats) -> Floats:
    return rows[np.argsort(-rows[:, 14], kind="stable")]


def _surroundings(image: Pixels, row: Floats) -> Pixels:
    """The square around a face, twice its size, at most about 240 pixels large."""
    x, y, width, height = (float(v) for v in row[:4])
    middle_x, middle_y, half = x + width / 2, y + height / 2, 1.1 * max(width, height)
    left, right = (max(0, round(middle_x + side)) for side in (-half, half))
    top, bottom = (max(0, round(middle_y + side)) for side in (-half, half))
    part = image[top:bottom, left:right]
    while max(part.shape[:2]) > 240:
        part = _halved(part)
    return part


def _halved(image: Pixels) -> Pixels:
    """Every 2 x 2 pixels as one."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    wide = image[:height, :width].astype(np.uint16)
    mean = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return (mean // 4).astype(np.uint8)


def _turned_back(rows: Floats, quarters: int, width: int, height: int) -> Floats:
    """Rows found in `np.rot90(image, quarters)`, in the frame of the image of this size."""
    points = rows[:, 4:14].reshape(-1, 5, 2)
    corners = np.stack([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)

    def back(p: Floats) -> Floats:
        x, y = p[..., 0], p[..., 1]
        if quarters == 1:
            return np.stack([width - y, x], axis=-1)
        if quarters == 2:
            return np.stack([width - x, height - y], axis=-1)
        return np.stack([y, height - x], axis=-1)

    turned = back(corners)
    result = rows.copy()
    result[:, :2] = turned.min(axis=1)
    result[:, 2:4] = turned.max(axis=1) - turned.min(axis=1)
    result[:, 4:14] = back(points).reshape(-1, 10)
    return result


def _detections(rows: Floats) -> list[Detection]:
    result = []
    for row in rows.tolist():
        x, y, width, height, x0, y0, x1, y1, x2, y2, x3, y3, x4, y4, confidence = row
        landmarks = ((x0, y0), (x1, y1), (x2, y2), (x3, y3), (x4, y4))
        result.append(Detection(Box(x, y, width, height), confidence, landmarks))
    return result


def _up(side: int) -> int:
    return -(-side // _MULTIPLE) * _MULTIPLE
