"""`python -m app COMMAND`: the service's own commands."""

from __future__ import annotations

import sys

from faces.errors import LikenessError
from faces.unread import discard

USAGE = """usage: python -m app COMMAND [OPTION…]

  up            start everything that `make run` serves, and stop it together
  serve         the web process, with the protocol settings that the service wants
  encoder       a stateless encoder service: POST /v1/embed for other instances
  keys new      make an API key and print the entry for API_KEYS
  doctor        check configuration, models, database, index and limits

Each has --help. Settings come from the environment; see .env.example.
"""


def main(argv: list[str]) -> int:
    """The exit status of one command; only its own modules are imported."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    try:
        status = _run(command, rest)
        sys.stdout.flush()
    except LikenessError as error:
        print(error.detail, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        discard(sys.stdout)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return status


def _run(command: str, rest: list[str]) -> int:
    match command:
        case "up":
            from app import up

            return up.main(rest)
        case "serve":
            from app import server

            return server.main(rest)
        case "encoder":
            from app import server

            return server.main(rest, encoder=True)
        case "keys":
            from app import keys

            return keys.main(rest)
        case "doctor":
            from app import doctor

            return doctor.main(rest)
    print(f"There is no command of that name.\n\n{USAGE}", end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
