"""`python -m bench accuracy --data DIR`: how well a model tells people apart on one's own photos.

DIR holds a folder of photos per person; the largest face of each photo is taken. Intervals are
95 % by bootstrap over photos. Writes a JSON file and a ROC picture beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.crops import Found, crops_of, shrunk_crops_of
from bench.dataset import DatasetError, Photo, read_groups, read_pairs, read_photos
from bench.plot import roc_png
from bench.report import say
from bench.scoring import (
    MOST_PAIRS,
    Pairs,
    all_pairs,
    area_under_curve,
    best_threshold,
    bootstrap,
    false_match_curve,
    nearest_right,
    roc,
    threshold_at,
    true_accept_rate,
)
from faces.encode import OnnxEncoder
from faces.errors import LikenessError
from faces.models import files
from faces.models.cards import CARDS, ModelCard, card
from faces.sessions import open_session
from faces.settings import Settings, load

RATES = (1e-2, 1e-3, 1e-4)
REPLICATES = 200
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Faces:
    """The photos in which a face was found, their vectors and their people as numbers."""

    photos: list[Photo]
    kept: npt.NDArray[np.int64]
    vectors: Vectors
    people: npt.NDArray[np.int64]


def encode(
    models_dir: Path, model: ModelCard, photos: Sequence[Photo], shrink: int | None
) -> Faces:
    """The largest face of each photo as a vector, made `shrink` px wide first if given."""
    paths = [photo.path for photo in photos]
    crops = _cut(models_dir, model, paths, shrink)
    session = open_session(files.encoder_path(models_dir, model.key), threads=1)
    encoder = OnnxEncoder(session, model, files.build_sha256(models_dir, model.key))
    kept, vectors = [], []
    for number, found in enumerate(crops):
        if found.crop is not None:
            kept.append(number)
            vectors.append(encoder.encode(found.crop[None])[0])
        if (number + 1) % 200 == 0:
            say(f"{number + 1} of {len(photos)} photos")
    if not kept:
        raise DatasetError("No face was found in any photo.")
    people = np.unique([photo.person for photo in photos], return_inverse=True)[1]
    indices = np.array(kept, np.int64)
    return Faces(list(photos), indices, np.stack(vectors), people[indices].astype(np.int64))


def _cut(
    models_dir: Path, model: ModelCard, paths: Sequence[Path], shrink: int | None
) -> Iterator[Found]:
    if shrink is None:
        return crops_of(models_dir, model, paths)
    return shrunk_crops_of(models_dir, model, paths, shrink)


def named_pairs(faces: Faces, file: Path, folder: Path) -> tuple[Pairs, int]:
    """The listed pairs whose faces were both found, and how many were not."""
    place = {int(photo): row for row, photo in enumerate(faces.kept)}
    listed = read_pairs(file, folder, faces.photos)
    usable = [p for p in listed if p.first in place and p.second in place]
    first = np.array([place[p.first] for p in usable], np.int64)
    second = np.array([place[p.second] for p in usable], np.int64)
    left = faces.vectors[first].astype(np.float64)
    similarity = (left * faces.vectors[second]).sum(axis=1)
    genuine = np.array([p.genuine for p in usable], bool)
    return Pairs(similarity, genuine, first, second), len(listed) - len(usable)


def measure(pairs: Pairs, model: ModelCard, photos: int) -> dict[str, Any]:
    """The verification figures of pairs, rates too fine for their number left out."""
    similarity, genuine = pairs.similarity, pairs.genuine
    impostors = similarity[~genuine]
    if not genuine.any() or not len(impostors):
        raise DatasetError("There are no two photos of one person, or none of two people.")
    best, balanced = best_threshold(similarity, genuine)
    intervals = bootstrap(pairs, photos, [r for r in RATES if _fine(r, impostors)], REPLICATES)
    return {
        "genuine_pairs": int(genuine.sum()),
        "impostor_pairs": len(impostors),
        "auc": area_under_curve(similarity, genuine),
        "auc_interval": intervals.auc,
        "tar": {
            f"{rate:g}": {
                "tar": true_accept_rate(similarity, genuine, rate),
                "interval": intervals.tar[rate],
                "threshold": threshold_at(impostors, rate),
            }
            for rate in intervals.tar
        },
        "best_threshold": best,
        "best_balanced_accuracy": balanced,
        "at_card_threshold": {
            "threshold": model.threshold,
            "true_accept_rate": float((similarity[genuine] >= model.threshold).mean()),
            "false_accept_rate": float((impostors >= model.threshold).mean()),
        },
        "false_match_curve": false_match_curve(impostors),
    }


def _fine(rate: float, impostors: npt.NDArray[np.float64]) -> bool:
    """Whether a rate can be told from zero with so many impostor pairs."""
    return rate * len(impostors) >= 1


def by_group(faces: Faces, groups: Mapping[str, str], model: ModelCard) -> dict[str, Any]:
    """For each group: detection rate and figures among its own people."""
    persons = [photo.person for photo in faces.photos]
    table: dict[str, Any] = {}
    for group in sorted(set(groups.values())):
        listed = [n for n, person in enumerate(persons) if groups.get(person) == group]
        rows = np.flatnonzero(np.isin(faces.kept, listed))
        entry: dict[str, Any] = {
            "photos": len(listed),
            "detection_rate": len(rows) / len(listed) if listed else None,
        }
        if len(np.unique(faces.people[rows])) > 1:
            pairs = all_pairs(faces.vectors[rows], faces.people[rows])
            if pairs.genuine.any():
                entry |= measure(pairs, model, len(rows))
        table[group] = entry
    return table


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['model']} on {result['photos']} photos of {result['people']} people:"
        f" a face found in {result['detection_rate']:.1%}"
    )
    if result["pairs_without_face"]:
        yield f"{result['pairs_without_face']} listed pairs are left out: no face in one of them"
    drawn = " (drawn at random)" if result["impostors_drawn"] else ""
    yield f"{result['genuine_pairs']} genuine and {result['impostor_pairs']} impostor pairs{drawn}"
    low, high = result["auc_interval"]
    yield f"ROC AUC            {result['auc']:.5f}  [{low:.5f}, {high:.5f}]"
    for rate, entry in result["tar"].items():
        low, high = entry["interval"]
        yield (
            f"TAR at FAR {rate:7} {entry['tar']:.4f}  [{low:.4f}, {high:.4f}]"
            f"  threshold {entry['threshold']:.3f}"
        )
    for rate in RATES:
        if f"{rate:g}" not in result["tar"]:
            yield f"TAR at FAR {rate:<7g} not given: it needs {int(1 / rate)} impostor pairs"
    yield (
        f"best threshold     {result['best_threshold']:.3f}"
        f" (balanced accuracy {result['best_balanced_accuracy']:.4f})"
    )
    at = result["at_card_threshold"]
    yield (
        f"card's threshold   {at['threshold']:.3f}: accepts {at['true_accept_rate']:.4f} of"
        f" genuine,"
        f" {at['false_accept_rate']:.5f} of impostor pairs"
    )
    if result["nearest_right"] is not None:
        yield f"1-NN identification {result['nearest_right']:.4f}"
    for group, entry in (result.get("groups") or {}).items():
        line = f"group {group}: {entry['photos']} photos"
        if "auc" in entry:
            tar = ", ".join(f"TAR at {r} {e['tar']:.4f}" for r, e in entry["tar"].items())
            at = entry["at_card_threshold"]
            line += (
                f", found {entry['detection_rate']:.1%}, AUC {entry['auc']:.5f}, {tar}; at the"
                f" card's threshold {at['true_accept_rate']:.4f} of genuine,"
                f" {at['false_accept_rate']:.5f} of impostor pairs"
            )
        yield line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench accuracy", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos per person")
    parser.add_argument("--pairs", type=Path, help="LFW's pairs.txt, or lines `path path 0|1`")
    parser.add_argument("--model", choices=list(CARDS), help="default: the active one")
    parser.add_argument("--shrink", type=int, metavar="PX", help="make faces PX wide first")
    parser.add_argument("--groups", type=Path, help="CSV of person,group: a table by group")
    parser.add_argument("--out", type=Path, help="JSON file; default var/accuracy/MODEL.json")
    return parser


def run(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """All figures that the options ask for."""
    models_dir = settings.models_path
    model = card(options.model or files.recorded_choice(models_dir) or "facenet512")
    photos = read_photos(options.data)
    faces = encode(models_dir, model, photos, options.shrink)
    missing = 0
    if options.pairs:
        pairs, missing = named_pairs(faces, options.pairs, options.data)
    else:
        pairs = all_pairs(faces.vectors, faces.people)
    result = {
        "model": model.key,
        "build": files.build_sha256(models_dir, model.key),
        "command": " ".join(["python -m bench accuracy", *map(str, options.given)]),
        "photos": len(photos),
        "people": len({photo.person for photo in photos}),
        "shrunk_to": options.shrink,
        "detection_rate": len(faces.kept) / len(photos),
        "pairs_without_face": missing,
        "impostors_drawn": not options.pairs and len(faces.kept) ** 2 / 2 > MOST_PAIRS,
        **measure(pairs, model, len(faces.kept)),
        "nearest_right": nearest_right(faces.vectors, faces.people),
    }
    if options.groups:
        result["groups"] = by_group(faces, read_groups(options.groups), model)
    out = options.out or settings.var_dir / "accuracy" / f"{model.key}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    false, true = roc(pairs.similarity, pairs.genuine)
    title = f"{model.key}: {len(photos)} photos, {result['people']} people, AUC {result['auc']:.5f}"
    roc_png(out.with_suffix(".png"), title, false, true, 1 / max(2, int((~pairs.genuine).sum())))
    result["written"] = [str(out), str(out.with_suffix(".png"))]
    return result


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    options.given = arguments
    try:
        result = run(options, load())
    except (DatasetError, LikenessError, OSError) as error:
        print(f"bench accuracy: {error}", file=sys.stderr)
        return 1
    print("\n".join(_text(result)))
    print(f"written to {' and '.join(result['written'])}")
    return 0
