"""`uvicorn app.main:app`: the application under the environment's settings."""

from __future__ import annotations

from app.web import create_app
from faces.errors import ConfigError
from faces.memory import keep_one_heap
from faces.settings import load

keep_one_heap()
try:
    app = create_app(load())
except ConfigError as error:
    raise SystemExit(f"likeness: {error.detail}") from None
