"""The address that the service is to have: whether it is free, and what it is called."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TypeAlias

from faces.errors import ConfigError

Wait: TypeAlias = Callable[[Callable[[], bool], float], bool]
PATIENCE = 3.0  # seconds; a run that was killed a moment ago may still be letting go of it


def wait_for_port(wait: Wait, host: str, port: int) -> None:
    """Returns when the address can be bound; raises ConfigError when it cannot be for a while.

    `wait(done, seconds)` says whether `done()` became true in time.
    """
    fault: list[OSError] = []

    def free() -> bool:
        family, kind, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(target)
            except OSError as error:
                fault.append(error)
                return False
        return True

    try:
        if wait(free, PATIENCE):
            return
    except socket.gaierror:
        raise ConfigError(f"HOST={host} is not an address of this machine.") from None
    number = fault[-1].errno
    if number == errno.EADDRNOTAVAIL:
        raise ConfigError(f"HOST={host} is not an address of this machine.") from fault[-1]
    why = "needs more rights" if number == errno.EACCES else "is in use"
    another = port + 1 if 1024 <= port < 65535 else 8000
    raise ConfigError(
        f"Port {port} on {host} {why}. Stop the program that has it, or choose another: "
        f"PORT={another} make run"
    ) from fault[-1]


def loopback(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def address(host: str, port: int) -> str:
    """The URL to open in a browser."""
    near = loopback(host)
    return f"http://[{near}]:{port}/" if ":" in near else f"http://{near}:{port}/"
