"""`python -m indexer run | once | status | audit`."""

from indexer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
