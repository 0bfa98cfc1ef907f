"""Detection and alignment by OpenCV alone, to compare ours with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faces import align
from faces.models import cards, files
from faces.types import Pixels


class Reference:
    """Detection and alignment by OpenCV alone, on the fully decoded picture."""

    def __init__(self, models_dir: Path) -> None:
        self._file = str(files.source_path(models_dir, cards.DETECTOR.download.name))

    def detect(self, image: Pixels) -> list[Any]:
        height, width = image.shape[:2]
        found = cv2.FaceDetectorYN.create(self._file, "", (width, height), 0.6).detect(image)[1]
        return [] if found is None else list(found)

    def crop(self, image: Pixels) -> Pixels:
        """The largest face's crop, as the model card describes it."""
        shrink = min(1.0, 640 / max(image.shape))
        size = round(image.shape[1] * shrink), round(image.shape[0] * shrink)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        row = max(self.detect(small), key=lambda r: r[2] * r[3])
        marks = [(float(x) / shrink, float(y) / shrink) for x, y in row[4:14].reshape(5, 2)]
        template = np.array(align.ARCFACE) * 160 / 112
        m = _umeyama(np.array(marks), template)
        m[0] = [1.2 * m[0, 0], 1.2 * m[0, 1], 1.2 * (m[0, 2] - 80) + 80]
        m[1] = [0.9 * m[1, 0], 0.9 * m[1, 1], 0.9 * (m[1, 2] - 80) + 80 - 0.04 * 160]
        step = 1 / np.sqrt(np.linalg.det(m[:, :2]))
        if step > 2:
            by = int(step)
            image = cv2.resize(image, None, fx=1 / by, fy=1 / by, interpolation=cv2.INTER_AREA)
            m[:, :2] *= by
        return np.asarray(cv2.warpAffine(image, m, (160, 160), flags=cv2.INTER_LINEAR))


def _umeyama(source: Any, target: Any) -> Any:
    """The least-squares similarity (Umeyama 1991), by singular values."""
    s, t = source - source.mean(0), target - target.mean(0)
    u, d, v = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u @ np.diag(sign) @ v
    scale = (d * sign).sum() / (s**2).sum() * len(s)
    shift = target.mean(0) - scale * rotation @ source.mean(0)
    return np.hstack([scale * rotation, shift[:, None]])
