"""Where graphs are kept that were optimised for this processor, and whether they still are whole.

A kept form is a folder `optimised/<model>-<identity>/` beside the model, put in place as a whole.
The identity covers the model's build, the runtime's version and the processor, because an optimised
graph suits these only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from faces.errors import ModelFileError
from faces.models.files import read_record

GRAPH, WEIGHTS, RECORD = "graph.onnx", "weights.bin", "record.json"
FOLDER = "optimised"
FORMAT = 1
WORK = ".partial-"
ABANDONED_AFTER_S = 3600.0
Make = Callable[[Path, Path], None]
"""(graph, empty folder): writes GRAPH and WEIGHTS into the folder."""


def processor() -> str:
    """What distinguishes this processor from one that wants other code."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "|".join([platform.machine(), *sorted(set(features))])


def identity(path: Path, runtime: str) -> str:
    """The name of what a graph's optimised form depends on, 16 hex digits."""
    parts = [str(FORMAT), _build(path), runtime, processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _folder(path: Path, runtime: str) -> Path:
    return path.parent / FOLDER / f"{path.stem}-{identity(path, runtime)}"


def find(path: Path, runtime: str) -> Path | None:
    """The kept graph of a model for this processor; None when there is none that is whole."""
    folder = _folder(path, runtime)
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        whole = all(_state(folder / name) == record[name] for name in (GRAPH, WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder / GRAPH if whole else None


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def keep(path: Path, runtime: str, make: Make) -> Path:
    """Makes a model's optimised form, keeps it and returns its graph; replaces a damaged one.

    Forms of earlier builds of the model go. Raises OSError when the folder cannot be written.
    """
    target = _folder(path, runtime)
    target.parent.mkdir(exist_ok=True)
    _drop_abandoned(target.parent)
    with tempfile.TemporaryDirectory(prefix=WORK, dir=target.parent) as work:
        fresh = Path(work) / "new"
        fresh.mkdir()
        make(path, fresh)
        record = {name: _state(fresh / name) for name in (GRAPH, WEIGHTS)}
        (fresh / RECORD).write_text(json.dumps(record | {"made_from": _build(path)}), "utf-8")
        if (kept := find(path, runtime)) is not None:
            return kept  # Another process was faster.
        with contextlib.suppress(FileNotFoundError):
            os.replace(target, Path(work) / "damaged")
        try:
            os.replace(fresh, target)
        except OSError:
            if find(path, runtime) is None:  # else another process was faster after all
                raise
    _drop_others(path, target)
    kept = find(path, runtime)
    if kept is None:
        raise ModelFileError(f"The optimised form of {path.name} does not stay as it was written.")
    return kept


def _drop_abandoned(folder: Path) -> None:
    """Removes work folders of processes that were killed while they made a form."""
    for work in folder.glob(f"{WORK}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - work.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(work, ignore_errors=True)


def drop(path: Path) -> None:
    """Removes every form of a model."""
    for folder in _forms(path):
        shutil.rmtree(folder, ignore_errors=True)


def _forms(path: Path) -> list[Path]:
    return list((path.parent / FOLDER).glob(f"{path.stem}-{'?' * 16}"))


def _build(path: Path) -> str:
    """What tells a model's file from another build: its recorded hash, else its size and time."""
    record, state = read_record(path), path.stat()
    if record is not None and record.size == state.st_size:
        return record.sha256
    return f"{state.st_size}:{state.st_mtime_ns}"


def _drop_others(path: Path, target: Path) -> None:
    """Removes forms of other builds of the same model; those for other processors stay."""
    for folder in _forms(path):
        try:
            made_from = json.loads((folder / RECORD).read_text("utf-8"))["made_from"]
        except (OSError, ValueError, KeyError):
            made_from = None
        if folder != target and made_from != _build(path):
            shutil.rmtree(folder, ignore_errors=True)
