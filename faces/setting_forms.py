"""The forms of single settings: each takes a value as it was given and returns it as it is used.

Every one raises ValueError with a sentence that says which form is asked for and quotes no value.
What reads a value for good is asked here, too, so that a program that starts can use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import SecretStr

from faces.errors import ConfigError

_DATABASE = re.compile(r"[^/\\.\"$\s\x00]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def database_name(value: str | None) -> str | None:
    """A name that MongoDB takes for a database."""
    if value is not None and not (_DATABASE.fullmatch(value) and _fits(value, 63)):
        raise ValueError('must be 1 to 63 bytes without space, quote and any of / \\ . " $')
    return value


def collection_name(value: str | None) -> str | None:
    """A name that MongoDB takes for a collection."""
    if value is not None and (
        any(sign in value for sign in "$\x00")
        or ".." in value
        or value != value.strip(".")
        or not _fits(value, 235)
    ):
        raise ValueError("must be 1 to 235 bytes without $, .. and a dot at its ends")
    return value


def model_key(value: str | None) -> str | None:
    """`auto`, or the key of a model that there is a card of."""
    if value != "auto":
        model_keys([value] if value is not None else [])
    return value


def model_keys(values: Sequence[str]) -> tuple[str, ...]:
    """Keys of models that there are cards of."""
    if values:
        from faces.models import cards  # a program that is not told a model does without

        for value in values:
            _asked(cards.card, value)
    return tuple(values)


def media_hosts(values: Sequence[str]) -> tuple[str, ...]:
    """Entries that an allow-list can be made of."""
    from faces.addresses import parse_origins

    _asked(parse_origins, values, setting="")
    return tuple(values)


def cms_url(value: str | None) -> str | None:
    """An http or https URL, without a user name, whose origin can be on an allow-list."""
    if value is not None:
        from faces.addresses import origins_of

        _asked(origins_of, value, setting="")
    return value


def service_url(value: str | None) -> str | None:
    """An http or https URL of a service of one's own."""
    if value is not None:
        import httpx2  # 13 MB that a process without such a service does without

        try:
            url = httpx2.URL(value)
            usable = url.scheme in ("http", "https") and url.host and (url.port or 80) < 65536
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            usable = False
        if not usable:
            raise ValueError("must be an http or https URL")
    return value


def networks(values: Sequence[str]) -> tuple[str, ...]:
    """Addresses and networks, or `*` for every address."""
    from faces.addresses import parse_networks

    _asked(parse_networks, values)
    return tuple(values)


def rate(value: str) -> str:
    """A number of requests in a time, such as 600/minute."""
    from limits import parse_many

    try:
        (_,) = parse_many(value)  # of several, all but the first would be silently left out
    except ValueError:
        raise ValueError("must read like 600/minute") from None
    return value


def page_origins(values: Sequence[str]) -> tuple[str, ...]:
    """Origins as browsers send them, or `*` for every one."""
    if not all(value == "*" or _ORIGIN.fullmatch(value) for value in values):
        raise ValueError("each entry must read like https://cms.example: no path, lower case")
    return tuple(values)


def header_secret(value: SecretStr | None) -> SecretStr | None:
    """What can travel in a header as it is: visible ASCII, spaces only within."""
    if value is not None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value.get_secret_value()):
        raise ValueError("must be visible ASCII characters without white space around them")
    return value


def secret(value: SecretStr | None) -> SecretStr | None:
    """Text without line ends and the like, and without white space around it."""
    if value is not None:
        text = value.get_secret_value()
        if text != text.strip() or not text.isprintable():
            raise ValueError("must be printable text without white space around it")
    return value


def _fits(value: str, most: int) -> bool:
    try:
        return 0 < len(value.encode()) <= most
    except UnicodeEncodeError:
        return False


def _asked(parse: Callable[..., object], *args: object, **options: Any) -> None:
    """Has `parse` read the value; its ConfigError as a ValueError without the setting's name."""
    try:
        parse(*args, **options)
    except ConfigError as error:
        name, colon, text = error.detail.partition(": ")
        raise ValueError(text if colon and " " not in name else error.detail) from None
