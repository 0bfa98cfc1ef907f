"""`python -m localatlas`."""

from localatlas.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
