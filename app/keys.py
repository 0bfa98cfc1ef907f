"""`python -m app keys new`: makes a key and the entry of API_KEYS that admits it."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
import sys
from collections.abc import Sequence

from faces.errors import ConfigError
from faces.settings import NAME


def entry(name: str, role: str, key: str, collections: Sequence[str] = ()) -> str:
    """The entry of API_KEYS for a key: name:role:sha256hex[:coll+coll]."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    bound = ":" + "+".join(collections) if collections else ""
    return f"{name}:{role}:{digest}{bound}"


def main(argv: Sequence[str]) -> int:
    """Print a new key once, and its hash. Exits 0."""
    parser = argparse.ArgumentParser(prog="python -m app keys", description=__doc__)
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser("new", help="make a key")
    new.add_argument("--name", default="key", help="what the logs call its holder (default: key)")
    new.add_argument("--role", choices=("search", "index", "admin"), default="search")
    new.add_argument(
        "--collection", action="append", default=[], help="bind it to a collection (repeatable)"
    )
    options = parser.parse_args(argv)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", options.name):
        raise ConfigError("--name: must be 1 to 64 of A-Z a-z 0-9 _ . -")
    if not all(NAME.fullmatch(name) for name in options.collection):
        raise ConfigError("--collection: must be 1 to 255 of A-Z a-z 0-9 _ . -")
    key = secrets.token_urlsafe(32)
    made = entry(options.name, options.role, key, options.collection)
    sys.stdout.write(
        f"key        {key}\n"
        f"entry      {made}\n\n"
        "The key is shown only now: give it to its user, who sends it as X-API-Key.\n"
        "The entry holds only its hash: add it to API_KEYS, after a comma if there are others.\n"
    )
    return 0
