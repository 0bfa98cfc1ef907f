"""`python -m app doctor`: every promise of the deployment guide that can be checked from here.

One line a check: ok, warning or failure, and what to do. Exits 1 when there is a failure. Nothing
secret is printed: no URI, no key, no host name out of one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faces.choice import choose, deepface_installed
from faces.errors import ConfigError, LikenessError
from faces.settings import Settings, load

Level = Literal["ok", "warning", "failure"]
MIB = 1024 * 1024
GUESSABLE = (
    *("", "admin", "changeme", "demo", "dev", "key", "likeness", "password", "secret", "test"),
)
SLUG_LIMIT_MIB = 500
SLUG_GOAL_MIB = 350


@dataclass(frozen=True, slots=True)
class Line:
    """What one check found; `fix` says what to do unless all is well."""

    level: Level
    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.level:8} {self.subject:16} {self.found}"
        return f"{text}\n{'':26}-> {self.fix}" if self.fix else text


def main(argv: Sequence[str]) -> int:
    """Prints the lines as they are found; 0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m app doctor", description=__doc__)
    parser.parse_args(argv)
    failed = False
    for line in examine():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        failed = failed or line.level == "failure"
    return 1 if failed else 0


def examine() -> Iterator[Line]:
    """All checks, in the order in which they build on one another."""
    try:
        settings = load()
    except ConfigError as error:
        yield Line("failure", "configuration", error.detail, "correct the variables named here")
        return
    yield from configuration(settings, os.environ)
    yield from keys(settings)
    yield from machine(settings)
    yield from models(settings)
    yield slug_size(settings)
    if settings.mongodb_uri is None:
        level: Level = "failure" if settings.production else "warning"
        fix = "set MONGODB_URI to your Atlas cluster's, or use `make run`, which brings its own"
        yield Line(level, "database", "MONGODB_URI is not set", fix)
        return
    from app import doctor_database

    yield from doctor_database.examine(settings)


def configuration(settings: Settings, environment: Mapping[str, str]) -> Iterator[Line]:
    """Settings that are valid one by one and still do not go together."""
    where = "a dyno" if settings.dyno else settings.app_env
    yield Line("ok", "configuration", f"valid; this is {where}")
    workers = environment.get("WEB_CONCURRENCY", "1")
    by_hand = environment.get("WEB_CONCURRENCY_SET_BY") is None
    if workers != "1" and by_hand:
        yield Line(
            "warning",
            "configuration",
            f"WEB_CONCURRENCY is {workers}: every web process would load the models anew",
            "unset it; the Procfile passes --workers 1",
        )
    if environment.get("FORWARDED_ALLOW_IPS") == "*" and not settings.trusted_proxies:
        yield Line(
            "ok", "proxies", "forwarded addresses are not believed (TRUSTED_PROXIES is empty)"
        )
    if (chosen := choose(settings, installed=deepface_installed())).warning:
        fix = "install the extra `deepface`, or set USE_LITE_EMBEDDINGS=true"
        yield Line("warning", "encoder", chosen.reason + ": ONNX is used", fix)
    if settings.encoder == "remote":
        yield remote(settings)


def keys(settings: Settings) -> Iterator[Line]:
    """Whether there are API keys, and none that can be guessed."""
    entries = [entry.split(":") for entry in settings.key_entries.split(",") if entry]
    if not entries:
        level: Level = "failure" if settings.production else "warning"
        found = "none: only clients on this machine are answered"
        yield Line(level, "keys", found, "run `python -m app keys new` and set API_KEYS")
        return
    for name, *_, digest in ([e[0], e[2]] for e in entries):
        if digest in {hashlib.sha256(word.encode()).hexdigest() for word in _guesses(name)}:
            yield Line(
                "failure",
                "keys",
                f"the key of entry {name} can be guessed",
                "replace it: `python -m app keys new`",
            )
            return
    roles = sorted({entry[1] for entry in entries})
    yield Line("ok", "keys", f"{len(entries)} ({', '.join(roles)})")


def machine(settings: Settings) -> Iterator[Line]:
    """Interpreter, CPU and memory."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] == (3, 11):
        yield Line("ok", "python", version)
    else:
        yield Line("failure", "python", version, "run it with Python 3.11")
    flags = cpu_flags(_text(Path("/proc/cpuinfo")))
    if not flags:
        yield Line("warning", "cpu", "its features cannot be read", "expect other speeds")
    elif "avx2" not in flags:
        yield Line("warning", "cpu", "no AVX2: encoding is several times slower", "choose another")
    else:
        extra = "with" if "avx512_vnni" in flags or "avx_vnni" in flags else "without"
        yield Line("ok", "cpu", f"AVX2, {extra} VNNI; {os.cpu_count()} cores")
    limit = memory_limit_mib()
    if limit is None:
        yield Line("ok", "memory", "no limit is set for this process")
    elif limit < 480 and settings.face_recognition_enabled and settings.encoder != "remote":
        fix = "give it 512 MB, or use ENCODER=remote or FACE_RECOGNITION_ENABLED=false"
        yield Line("failure", "memory", f"limited to {limit} MB", fix)
    else:
        yield Line("ok", "memory", f"limited to {limit} MB")


def models(settings: Settings) -> Iterator[Line]:
    """Whether the model files are there and have the right bytes."""
    if not settings.face_recognition_enabled:
        yield Line("ok", "models", "not needed: FACE_RECOGNITION_ENABLED is false")
        return
    if settings.encoder == "remote":
        yield Line("ok", "models", "not needed: ENCODER is remote")
        return
    from faces.models import cards, files

    folder = settings.models_path
    chosen = settings.face_model
    if chosen in (None, "auto"):
        chosen = files.recorded_choice(folder) or ("facenet512" if settings.production else None)
    if chosen is None:
        fix = "run `python -m faces.models fetch`"
        yield Line("failure", "models", "none was fetched yet", fix)
        return
    made: list[cards.ModelCard | cards.DetectorCard] = [cards.DETECTOR]
    try:
        made += [cards.card(key) for key in dict.fromkeys([chosen, *settings.models])]
    except LikenessError as error:
        yield Line("failure", "models", error.detail, "correct FACE_MODEL or MODELS")
        return
    for card in made:
        problem = files.problem(folder, card)
        if problem is None:
            yield Line("ok", "models", f"{card.key}: right size and SHA-256")
        else:
            key = "" if card is cards.DETECTOR else f" {card.key}"
            fix = f"run `python -m faces.models fetch{key}`"
            yield Line("failure", "models", problem, fix)


def remote(settings: Settings) -> Line:
    """Whether the separate encoder service is there and makes the right vectors."""
    from faces.loading import load_pipeline

    key = settings.face_model or "facenet512"
    try:
        pipeline = load_pipeline(settings, key)
        try:
            pipeline.check()
        finally:
            pipeline.close()
    except LikenessError as error:
        return Line("failure", "encoder", error.detail, "correct ENCODER_URL and ENCODER_API_KEY")
    return Line("ok", "encoder", f"the encoder service answers and makes {key} vectors")


def slug_size(settings: Settings) -> Line:
    """The unpacked size on a dyno, or how to measure the slug elsewhere."""
    home = os.environ.get("HOME", "")
    if not settings.dyno or not home:
        return Line("ok", "slug", "not a dyno; `make dyno` builds a slug here and measures it")
    size = sum(_size(path) for path in Path(home).rglob("*")) // MIB
    # Compressed it is smaller; the limit holds for the compressed slug.
    if size <= SLUG_GOAL_MIB:
        return Line("ok", "slug", f"{size} MB unpacked")
    fix = "see the size of the parts in the build log; docs/deploy.md says what can go"
    level: Level = "warning" if size <= 2 * SLUG_LIMIT_MIB else "failure"
    return Line(level, "slug", f"{size} MB unpacked", fix)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The features that the first processor of a /proc/cpuinfo lists."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def memory_limit_mib(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group allows, in MiB; None when it sets no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _text(root / name).strip()
        # Version 1 says "no limit" by a number that no machine has.
        if text.isdigit() and int(text) < 1 << 50:
            return int(text) // MIB
    return None


def _guesses(name: str) -> Iterable[str]:
    return {*GUESSABLE, name, name.lower(), f"{name}-key", f"{name}key"}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if not path.is_dir() or path.is_symlink() else 0
    except OSError:
        return 0
