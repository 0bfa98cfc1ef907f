"""Photos of known people: folder per person, LFW's layout, pair lists and group lists."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.crops import photos_in


class DatasetError(Exception):
    """The photos or lists cannot be used; says what is wrong."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and the name of the person on it: the name of its folder."""

    path: Path
    person: str


@dataclass(frozen=True, slots=True)
class NamedPair:
    """Two photos by index, and whether they are said to show one person."""

    first: int
    second: int
    genuine: bool


def read_photos(folder: Path) -> list[Photo]:
    """Every photo under `folder`, sorted; the person is the folder that it lies in.

    Raises DatasetError when there are fewer than two people.
    """
    photos = [Photo(path, path.parent.name) for path in photos_in(folder)]
    if len({photo.person for photo in photos}) < 2:
        raise DatasetError(f"{folder} does not hold a folder each for at least two people.")
    return photos


def read_pairs(file: Path, folder: Path, photos: Sequence[Photo]) -> list[NamedPair]:
    """The pairs that a list names, in one of two forms.

    LFW's `pairs.txt`: `name i j` for one person's photos, `name i other j` for two people's, photo
    i of name being `name/name_000i.*`. Or `path path 0|1`, paths relative to `folder`. Lines of one
    or two numbers are headings. Raises DatasetError naming the line that cannot be used.
    """
    index = {str(p.path.relative_to(folder).with_suffix("")): n for n, p in enumerate(photos)}

    def find(name: str, number: int) -> str:
        return f"{name}/{name}_{number:04d}"

    pairs = []
    for line_number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not parts or (len(parts) <= 2 and all(part.isdigit() for part in parts)):
            continue
        try:
            if len(parts) == 3 and parts[1].isdigit():
                name, i, j = parts
                first, second, genuine = find(name, int(i)), find(name, int(j)), True
            elif len(parts) == 4:
                name, i, other, j = parts
                first, second, genuine = find(name, int(i)), find(other, int(j)), False
            else:
                left, right, same = parts
                first, second = (str(Path(p).with_suffix("")) for p in (left, right))
                genuine = {"0": False, "1": True}[same]
            pairs.append(NamedPair(index[first], index[second], genuine))
        except (ValueError, KeyError):
            raise DatasetError(
                f"{file.name}, line {line_number}: not a pair of photos that are there."
            ) from None
    if not any(p.genuine for p in pairs) or all(p.genuine for p in pairs):
        raise DatasetError(f"{file.name} must name pairs of one person and of two.")
    return pairs


def read_groups(file: Path) -> Mapping[str, str]:
    """Group of each person, from a CSV file of `person,group` lines (a heading is allowed)."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.reader(lines) if row]
    if any(len(row) != 2 for row in rows):
        raise DatasetError(f"{file.name}: every line must read person,group.")
    return {person.strip(): group.strip() for person, group in rows}
