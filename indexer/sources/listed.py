"""The JSON of a listing, read so that one record in it cannot spoil the others."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_DEEPEST = 64
"""Whatever lies deeper is none of the fields that are read; Python's parser ends at about 900."""
_LONGEST = 400
"""Digits of a whole number; with more it is beyond any number that is stored."""
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""A string, which may lack its end: else each quote in it would be tried as a beginning."""


def parse(body: bytes) -> Any:
    """The value that the JSON text spells; too deep a part of it is null. Raises ValueError."""
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    try:
        return _loads(text)
    except RecursionError:
        return _loads(_shallow(text))


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST else math.inf


def _shallow(text: str) -> str:
    """The text with null for every list and object that lies deeper than `_DEEPEST`."""
    kept: list[str] = []
    depth = begun = 0
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in ("[", "{"):
            depth += 1
            if depth == _DEEPEST + 1:
                kept += (text[begun : found.start()], "null")
                begun = len(text)  # unless it ends
        elif mark in ("]", "}"):
            if depth == _DEEPEST + 1:
                begun = found.end()
            depth -= 1
    return "".join((*kept, text[begun:]))
