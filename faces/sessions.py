"""Runs ONNX graphs. The only module that knows ONNX Runtime.

Threads, memory and providers are set on purpose, never left to their defaults: the arena and the
memory pattern are off, because a web process must give back what one large batch took, and threads
do not spin while they wait, because they share the cores with others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faces.errors import ModelFileError

CPU = "CPUExecutionProvider"


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
    """Loads the graph at `path`; raises ModelFileError when it is missing or cannot be used."""
    import onnxruntime

    if not path.is_file():
        raise ModelFileError(
            f"{path.name} is not there. Run `python -m faces.models fetch` to get it."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        # The runtime's own exceptions have no common base but Exception.
        raise ModelFileError(
            f"{path.name} cannot be loaded. Run `python -m faces.models verify` to see why."
        ) from error
    return Session(session)
