"""Runs ONNX graphs. The only module that knows ONNX Runtime.

Threads, memory and providers are set on purpose, never left to their defaults. The arena is on:
what runs here is bounded (batches of 4, detector images of one tile), so it stays small, and
tensors of megabytes that come and go among other threads' small pieces would leave the heap twice
as large (8 uploads at once: 155 MB with it, 290 without). The memory pattern is off: sizes vary.
Threads do not spin while they wait, because they share the cores with others.

A large graph is optimised once for the processor that it runs on and kept beside the model, its
weights in a file of their own: that loads in hundredths of a second, and the weights are mapped
from disk instead of copied. As a program (`python -m faces.sessions GRAPH FOLDER`) this module
makes such a form, so that the memory that takes ends with that process.

The runtime's published builds report usage to its makers and keep a device id in the home folder.
That is switched off before it is loaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from faces.errors import ConfigError, ModelFileError
from faces.models import optimised

CPU = "CPUExecutionProvider"
CACHED_FROM_BYTES = 4_000_000
"""Smaller graphs are optimised at each load: that is as fast as looking for a kept form."""
MAPPED_FROM_BYTES = 1024
MAKE_TIMEOUT_S = 300


class Session:
    """A loaded graph. `run` may be called from several threads at once."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs: tuple[str, ...] = tuple(value.name for value in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in session.get_outputs())

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """The graph's outputs, in its order, for the named inputs."""
        return list(self._session.run(None, dict(inputs)))


def open_session(path: Path, *, threads: int = 1, providers: Sequence[str] = (CPU,)) -> Session:
    """Loads the graph at `path`; raises ModelFileError when it is missing or cannot be used, and
    ConfigError for a provider that the runtime does not have.

    On the CPU a large graph is loaded in its optimised form, which is made now if there is none
    for this processor, or if it is damaged. Where that form cannot be kept (a read-only folder),
    the graph is optimised in memory, and a warning says so.
    """
    if not path.is_file():
        raise ModelFileError(
            f"{path.name} is not there. Run `python -m faces.models fetch` to get it."
        )
    if tuple(providers) == (CPU,) and path.stat().st_size >= CACHED_FROM_BYTES:
        try:
            return Session(_load(prepare(path), threads, providers, optimise=False))
        except (OSError, ModelFileError, subprocess.SubprocessError) as error:
            structlog.get_logger("likeness.sessions").warning(
                "optimised form cannot be kept; the graph loads slower and takes more memory",
                graph=path.name,
                error=type(error).__name__,
            )
    return Session(_load(path, threads, providers, optimise=True))


def prepare(path: Path) -> Path:
    """The graph at `path` in its form for this processor, made now if there is none.

    Raises OSError or SubprocessError when it can be neither found nor made. Loads no runtime when
    it is there.
    """
    runtime = importlib.metadata.version("onnxruntime")
    return optimised.find(path, runtime) or optimised.keep(path, runtime, _make)


def _onnxruntime() -> Any:
    """The runtime, its usage reports switched off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read while it is being imported
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _options(threads: int) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _load(path: Path, threads: int, providers: Sequence[str], *, optimise: bool) -> Any:
    onnxruntime = _onnxruntime()
    missing = set(providers) - set(onnxruntime.get_available_providers())
    if missing:
        raise ConfigError(
            f"ONNX_PROVIDERS names {', '.join(sorted(missing))}, which this runtime does not have;"
            f" it has {', '.join(onnxruntime.get_available_providers())}."
        )
    options = _options(threads)
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        # The runtime's own exceptions have no common base but Exception.
        raise ModelFileError(
            f"{path.name} cannot be loaded. Run `python -m faces.models verify` to see why."
        ) from error


def _make(path: Path, folder: Path) -> None:
    """Writes the optimised form of the graph at `path` into `folder`, in a process of its own."""
    command = [sys.executable, "-m", __name__, str(path.resolve()), str(folder.resolve())]
    root = Path(__file__).resolve().parent.parent
    subprocess.run(command, cwd=root, check=True, timeout=MAKE_TIMEOUT_S, capture_output=True)


def _optimise(path: Path, folder: Path) -> None:
    options = _options(threads=1)
    options.optimized_model_filepath = str(folder / optimised.GRAPH)
    prefix = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{prefix}file_name", optimised.WEIGHTS)
    options.add_session_config_entry(f"{prefix}min_size_in_bytes", str(MAPPED_FROM_BYTES))
    _onnxruntime().InferenceSession(str(path), options, providers=[CPU])


if __name__ == "__main__":
    _optimise(Path(sys.argv[1]), Path(sys.argv[2]))
