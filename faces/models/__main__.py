"""`python -m faces.models`: fetch, list and verify the model files."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from faces.errors import LikenessError, ModelFileError
from faces.models import files, samples
from faces.models.cards import CARDS, DETECTOR, DetectorCard, ModelCard, card
from faces.models.fetch import AUTO_FIRST, Fetch, Places, decide
from faces.models.progress import Terminal
from faces.settings import Settings, load
from faces.unread import discard

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m faces.models", description="Fetch, list and verify the model files."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="get, verify and convert models; does nothing twice")
    fetch.add_argument("key", nargs="*", help="models; default: what FACE_MODEL and MODELS say")
    fetch.add_argument("--samples", action="store_true", help="also the sample photos")
    fetch.add_argument(
        "--discard-sources",
        action="store_true",
        help="afterwards keep only what serving needs (for a slug or an image)",
    )
    commands.add_parser("list", help="what is known of each model, and whether it is here")
    verify = commands.add_parser("verify", help="hash the files and compare")
    verify.add_argument("key", nargs="*", help="models; default: every one that is here")
    verify.add_argument(
        "--parity",
        action="store_true",
        help="also compute vectors in another way and compare (needs the build packages)",
    )
    return parser


def wanted_keys(settings: Settings) -> tuple[list[str], bool]:
    """The models that the settings ask for, and whether `auto` was among them."""
    asked = list(settings.models)
    chosen = settings.face_model or (AUTO_FIRST if settings.production else "auto")
    if chosen == "auto":
        return list(dict.fromkeys([decide(settings.models_path), *asked])), True
    return list(dict.fromkeys([chosen, *asked])), False


def _fetch(settings: Settings, keys: Sequence[str], *, with_samples: bool, discard: bool) -> int:
    chosen, automatic = (list(keys), False) if keys else wanted_keys(settings)
    run = Fetch(places(settings), Terminal(), os.environ)
    made = run.run(chosen, with_samples=with_samples)
    if automatic and files.recorded_choice(settings.models_path) != chosen[0]:
        files.record_choice(settings.models_path, chosen[0])
    if discard:
        run.discard(chosen)
    for key in chosen:
        _prepare(files.encoder_path(settings.models_path, key))
    names = ", ".join(chosen)
    print(f"{names}: in place" if made else f"{names}: already in place, nothing to do")
    return 0


def _prepare(path: Path) -> None:
    """Makes the form of a graph for this processor now rather than at the first start."""
    from faces import sessions

    try:
        sessions.prepare(path)
    except (OSError, ModelFileError, subprocess.SubprocessError) as error:
        print(
            f"{path.name} could not be optimised for this processor ({type(error).__name__}): it"
            " works, but loads slower and takes more memory",
            file=sys.stderr,
        )


def places(settings: Settings) -> Places:
    """The folders that the settings name."""
    return Places(settings.models_path, settings.var_dir / "samples")


def _list(settings: Settings) -> int:
    active = recorded = files.recorded_choice(settings.models_path)
    active = settings.face_model if settings.face_model not in (None, "auto") else recorded
    for model in CARDS.values():
        here = files.encoder_path(settings.models_path, model.key).is_file()
        mark = "*" if model.key == active else " "
        print(f"{mark} {model.key:16} {'here' if here else 'not fetched'}")
        print(f"    {model.name}; {model.dimensions} dimensions, {model.input_size} px")
        print(f"    threshold {model.threshold:.3f} ({model.threshold_source})")
        print(f"    licence: {model.licence} (declared by {model.licence_declared_by})")
        print(f"    trained on: {model.training_data}; commercial use: {model.commercial_use}")
        print(f"    from: {'; '.join(model.sources)}")
        if model.notes:
            print(f"    {model.notes}")
    print(f"  {DETECTOR.key:16} {DETECTOR.name}; licence: {DETECTOR.licence}")
    return 0


def _verify(settings: Settings, keys: Sequence[str], *, with_parity: bool) -> int:
    folder = settings.models_path
    if keys:
        chosen = [card(key) for key in keys]
    else:
        chosen = [c for c in CARDS.values() if files.encoder_path(folder, c.key).exists()]
    wrong = 0
    everything: list[DetectorCard | ModelCard] = [DETECTOR, *chosen]
    for made in everything:
        problem = files.problem(folder, made)
        print(f"{made.key}: {'wrong: ' + problem if problem else 'right'}")
        if problem:
            wrong += 1
            hint = "" if made is DETECTOR else f" {made.key}"
            print(f"  run `python -m faces.models fetch{hint}` to put it right")
        elif with_parity and isinstance(made, ModelCard):
            wrong += not _parity(settings, made)
    if (settings.var_dir / "samples").exists():
        problem = samples.problem(settings.var_dir / "samples")
        print(f"samples: {'wrong: ' + problem if problem else 'right'}")
        if problem:
            print("  run `python -m faces.models fetch --samples` to put it right")
        wrong += problem is not None
    return 1 if wrong else 0


def _parity(settings: Settings, model: ModelCard) -> bool:
    from faces.models import parity

    found = parity.check(settings.models_path, model)
    verdict = "agrees with" if found.holds else "WRONG: differs from"
    print(
        f"  {verdict} {found.method}: cosine {found.cosine:.7f} (at least {found.least}),"
        f" largest difference {found.difference:.1e}"
    )
    return found.holds


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Leaves through the `finally` clauses, so that nothing half done stays behind.
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        settings = load()
        if options.command == "fetch":
            return _fetch(
                settings,
                options.key,
                with_samples=options.samples,
                discard=options.discard_sources,
            )
        if options.command == "verify":
            return _verify(settings, options.key, with_parity=options.parity)
        status = _list(settings)
        sys.stdout.flush()
        return status
    except LikenessError as error:
        print(f"faces.models: {error.detail}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"faces.models: the package {error.name} is needed for this and is not installed:"
            " `pip install -r requirements-build.txt`",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        discard(sys.stdout)
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"faces.models: a file could not be read or written: {error.strerror}{where}."
            " Free space or permissions there, then run this again.",
            file=sys.stderr,
        )
        return files.NO_ROOM if error.errno in FULL else 1
    except KeyboardInterrupt:
        print("faces.models: interrupted; nothing half done was left behind", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
