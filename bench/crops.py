"""Aligned crops of the largest face of photos, by the service's own pipeline."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from faces.decoder import Decoder
from faces.detect import Detector
from faces.errors import ImageError
from faces.loading import largest
from faces.models import files
from faces.models.cards import ModelCard
from faces.pipeline import Pipeline
from faces.sessions import open_session

Crop = npt.NDArray[np.uint8]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Found:
    """A photo and its largest face's crop; None where no face was found or it cannot be read."""

    path: Path
    crop: Crop | None


class Recorder:
    """Stands in for an encoder and keeps the crops that it is handed."""

    key, build, dimensions = "crops", "", 1

    def __init__(self) -> None:
        self.crops: list[Crop] = []

    def encode(self, crops: Crop) -> npt.NDArray[np.float32]:
        """Keeps the crops; the vectors mean nothing."""
        self.crops.extend(crops)
        return np.ones((len(crops), 1), np.float32)


@contextmanager
def recording(models_dir: Path, card: ModelCard) -> Iterator[tuple[Pipeline, Recorder]]:
    """A pipeline that aligns for the model of `card` and records crops instead of encoding."""
    recorder = Recorder()
    detector = Detector(open_session(files.detector_path(models_dir), threads=1))
    pipeline = Pipeline(Decoder(), detector, recorder, alignment=card.alignment)
    try:
        yield pipeline, recorder
    finally:
        pipeline.close()


def crops_of(models_dir: Path, card: ModelCard, photos: Iterable[Path]) -> Iterator[Found]:
    """The largest face of each photo, in the photos' order."""
    with recording(models_dir, card) as (pipeline, recorder):
        for path in photos:
            recorder.crops.clear()
            try:
                pipeline.analyse(path.read_bytes(), choose=largest)
            except ImageError:
                recorder.crops.clear()
            yield Found(path, recorder.crops[0] if recorder.crops else None)


def shrunk_crops_of(
    models_dir: Path, card: ModelCard, photos: Iterable[Path], width: int
) -> Iterator[Found]:
    """As `crops_of`, of photos scaled down so that their largest face is `width` px wide.

    The face is looked for again in the small photo. A photo whose face is smaller stays as it is.
    """
    with recording(models_dir, card) as (pipeline, recorder):
        for path in photos:
            try:
                data = path.read_bytes()
                faces = pipeline.analyse(data, choose=largest).faces
                recorder.crops.clear()
                if faces:
                    pipeline.analyse(
                        _shrunk(data, faces[0].detection.box.width, width), choose=largest
                    )
            except ImageError:
                recorder.crops.clear()
            yield Found(path, recorder.crops[0] if recorder.crops else None)
            recorder.crops.clear()


def _shrunk(data: bytes, face: float, width: int) -> bytes:
    """The photo as a PNG in which a face `face` px wide has `width` px."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    share = min(1.0, width / face)
    size = (max(32, round(picture.width * share)), max(32, round(picture.height * share)))
    held = io.BytesIO()
    picture.resize(size, Image.Resampling.BOX if share < 1 else None).save(held, "PNG")
    return held.getvalue()


def photos_in(folder: Path) -> list[Path]:
    """The photos under a folder, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
