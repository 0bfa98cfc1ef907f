"""Kinds of input members with their limits, and the check of a value against them.

A wrong JSON type is a SerializationException, a value outside its limits an
InvalidParameterException that names the member, the limit and the value's size. What was sent is
repeated only where it is a number: a text may be a person's name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.rekognition.faults import InvalidParameter, Serialization
from faces.errors import ImageTooLarge


class Shape(Protocol):
    """A kind of value."""

    def check(self, value: Any, at: str) -> Any:
        """The value as the operations use it. Raises Serialization or InvalidParameter."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A string of `least` to `most` characters, each matching `letter`, or whole as `pattern`."""

    least: int = 0
    most: int = 1024
    letter: str = ""
    pattern: str = ""

    def check(self, value: Any, at: str) -> str:
        if not isinstance(value, str):
            raise Serialization(f"{at}: must be a string.")
        if not self.least <= len(value) <= self.most:
            raise InvalidParameter(
                f"{at}: must have {self.least} to {self.most} characters; it has {len(value)}."
            )
        if self.letter:
            for place, letter in enumerate(value):
                if not re.fullmatch(self.letter, letter):
                    raise InvalidParameter(
                        f"{at}: may hold only {self.letter}; character {place + 1} is U+"
                        f"{ord(letter):04X}."
                    )
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise InvalidParameter(f"{at}: must match {self.pattern}.")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any, at: str) -> str:
        if not isinstance(value, str):
            raise Serialization(f"{at}: must be a string.")
        if value not in self.words:
            raise InvalidParameter(f"{at}: must be one of {', '.join(self.words)}.")
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer from `least` to `most`."""

    least: int
    most: int | None = None

    def check(self, value: Any, at: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Serialization(f"{at}: must be an integer.")
        if value < self.least:
            raise InvalidParameter(f"{at}: must be at least {self.least}; it is {value}.")
        if self.most is not None and value > self.most:
            raise InvalidParameter(f"{at}: must be at most {self.most}; it is {value}.")
        return value


@dataclass(frozen=True, slots=True)
class Percent:
    """A number from 0 to 100."""

    def check(self, value: Any, at: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Serialization(f"{at}: must be a number.")
        if not 0 <= value <= 100:
            raise InvalidParameter(f"{at}: must be from 0 to 100; it is {value:g}.")
        return float(value)


@dataclass(frozen=True, slots=True)
class Blob:
    """Base64 of 1 to `most` bytes; a larger one is a picture that is too large."""

    most: int

    def check(self, value: Any, at: str) -> bytes:
        if not isinstance(value, str):
            raise Serialization(f"{at}: must be base64 text.")
        size = len(value) // 4 * 3 - value[-2:].count("=")
        if size > self.most:
            raise ImageTooLarge(f"{at}: may have at most {self.most} bytes; it has {size}.")
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Serialization(f"{at}: must be standard base64.") from None
        if not data:
            raise InvalidParameter(f"{at}: must have at least 1 byte.")
        return data


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of `least` to `most` values of one kind."""

    item: Shape
    least: int = 0
    most: int | None = None

    def check(self, value: Any, at: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Serialization(f"{at}: must be a list.")
        if len(value) < self.least:
            raise InvalidParameter(
                f"{at}: must hold at least {self.least} members; it holds {len(value)}."
            )
        if self.most is not None and len(value) > self.most:
            raise InvalidParameter(
                f"{at}: must hold at most {self.most} members; it holds {len(value)}."
            )
        return tuple(self.item.check(item, f"{at}[{i}]") for i, item in enumerate(value))


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object of at most `most` texts by text."""

    key: Text
    value: Text
    most: int

    def check(self, value: Any, at: str) -> dict[str, str]:
        if not isinstance(value, dict):
            raise Serialization(f"{at}: must be an object.")
        if len(value) > self.most:
            raise InvalidParameter(
                f"{at}: must hold at most {self.most} members; it holds {len(value)}."
            )
        return {
            self.key.check(key, f"{at} key"): self.value.check(item, f"{at} value")
            for key, item in value.items()
        }


@dataclass(frozen=True, slots=True)
class Record:
    """An object. Members that it does not know are dropped, and null is as good as absent.

    `one_of` names members of which exactly one has to be there.
    """

    members: Mapping[str, Shape]
    required: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()

    def check(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Serialization(f"{at or 'The body'}: must be an object.")
        found: dict[str, Any] = dict(self.defaults)
        for name, shape in self.members.items():
            place = f"{at}.{name}" if at else name
            if (given := value.get(name)) is not None:
                found[name] = shape.check(given, place)
            elif name in self.required:
                raise InvalidParameter(f"{place}: is required.")
        if self.one_of and sum(name in found for name in self.one_of) != 1:
            raise InvalidParameter(
                f"{at or 'The request'}: must hold exactly one of {', '.join(self.one_of)}."
            )
        return found
