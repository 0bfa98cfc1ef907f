"""`python -m migrations`: plans and applies schema steps and vector indexes."""

from __future__ import annotations

import sys

from migrations.cli import main

if __name__ == "__main__":
    sys.exit(main())
