"""Runs `python -m localatlas …` whose index builds fail while the file `fail` lies in its data
folder: `python -m tests.failing_atlas serve --data DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from localatlas.building import Builder
from localatlas.cli import main
from localatlas.indexes import Build, Live

if __name__ == "__main__":
    marker = Path(sys.argv[sys.argv.index("--data") + 1]) / "fail"
    scan = Builder._scan

    def failing(self: Builder, live: Live, build: Build) -> None:
        if marker.exists():
            raise RuntimeError("the build was made to fail")
        scan(self, live, build)

    setattr(Builder, "_scan", failing)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
