"""What the indexer's benchmarks share: many previews, an embedded Atlas, and who uses the cores."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from faces import processes
from faces.models.files import recorded_choice
from faces.settings import load

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Bench:
    """A migrated embedded Atlas, a folder for photos, and the environment of the commands."""

    folder: Path
    model: str
    env: dict[str, str]
    atlas: int
    """The process id of the embedded Atlas."""

    def source(self) -> dict[str, str]:
        """The settings that make the folder the CMS."""
        return {"CMS_SOURCE": "folder", "CMS_FOLDER": str(self.folder)}

    def start(self, *module: str, **settings: str) -> subprocess.Popen[bytes]:
        """A process of the product, `python -m` these words, with these settings; silent."""
        return processes.start(
            [sys.executable, "-m", *module],
            env=self.env | settings,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def prepared() -> Iterator[Bench]:
    """All that is needed, in a temporary folder that goes with it."""
    model = recorded_choice(load().models_path) or "facenet128"
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        with _atlas(Path(name) / "atlas") as (uri, pid):
            env = os.environ | {"MONGODB_URI": uri, "FACE_MODEL": model}
            subprocess.run([sys.executable, "-m", "migrations", "up"], env=env, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            yield Bench(folder, model, env, pid)


def fill(folder: Path, start: int, end: int) -> None:
    """The sample photos as files number `start` to `end`, made many by a comment behind each."""
    gallery = load().var_dir / "samples" / "gallery"
    photos = [path.read_bytes() for path in sorted(gallery.rglob("*")) if path.is_file()]
    for number in range(start, end):
        # Bytes behind the end of a picture are ignored, and make it another picture.
        data = photos[number % len(photos)] + number.to_bytes(4, "big")
        (folder / f"{number:06d}.jpg").write_bytes(data)


class Cores:
    """Processor seconds by what a process does, over some process trees; call `look` often."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float, float]] = {}

    def look(self, *pids: int) -> None:
        """Note what each process has used by now."""
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        times = process.cpu_times()
                        used = times.user + times.system
                        doing, first, _ = self._seen.get(process.pid, (_doing(process), used, 0.0))
                        self._seen[process.pid] = (doing, first, used)

    def seconds(self) -> dict[str, float]:
        """By role: what was used between the first look at each process and the last."""
        sums: dict[str, float] = {}
        for doing, first, last in self._seen.values():
            sums[doing] = sums.get(doing, 0.0) + last - first
        return sums


def _doing(process: psutil.Process) -> str:
    words = process.cmdline()
    if "faces.decode_child" in words:
        return "decoder"
    if any("secantus" in word for word in words):
        return "engine"
    return "engine's front" if "localatlas" in words else "indexer"


@contextlib.contextmanager
def _atlas(data: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of an embedded Atlas on an empty folder."""
    command = [sys.executable, "-m", "localatlas", "serve", "--data", str(data)]
    child = processes.start(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().decode().strip(), child.pid
    finally:
        processes.stop([child], grace=20)
        child.stdout.close()
        shutil.rmtree(data, ignore_errors=True)
