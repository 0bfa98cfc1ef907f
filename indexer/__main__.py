"""`python -m indexer run | once | status | audit`."""

from faces.memory import keep_one_heap
from indexer.cli import main

if __name__ == "__main__":
    keep_one_heap()
    raise SystemExit(main())
