"""A slug, built here as Heroku's Python buildpack would build it.

The order is the buildpack's: the committed files without those of .slugignore, `bin/pre_compile`,
the packages of requirements.txt into `.heroku/python`, `bin/post_compile`. The hooks see the app's
variables and nothing else of this machine. The interpreter is this machine's Python 3.11 and not
the platform's build of it; its standard library is counted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.report import say

ROOT = Path(__file__).parents[1]
MIB = 1024 * 1024
# Where pip finds its index and its certificates is this machine's matter, as on the platform.
NETWORK = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_TRUSTED_HOST", "PIP_CONFIG_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


class BuildFailed(Exception):
    """A step of the build failed; it has said why."""


@dataclass(frozen=True, slots=True)
class Slug:
    """A built slug: its folder and sizes in MiB, compressed with gzip as the platform does."""

    folder: Path
    compressed: float
    unpacked: float
    interpreter: float


def environment(slug: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process in the slug, as the buildpack's profile scripts set them."""
    kept = {n: os.environ[n] for n in NETWORK if n in os.environ}
    return {
        **kept,
        "HOME": str(slug),
        "PATH": f"{slug}/.heroku/python/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "true",
        "PYTHONPATH": str(slug),
        "LANG": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **variables,
    }


def build(folder: Path, variables: Mapping[str, str]) -> Slug:
    """Builds the committed state into `folder`, which must not exist. Raises BuildFailed."""
    say("slug: the committed files, without those that .slugignore names")
    _checkout(folder)
    env = environment(folder, {**variables, "STACK": "heroku-24"})
    env.pop("PYTHONPATH")
    say("slug: bin/pre_compile")
    _run(["/bin/bash", "bin/pre_compile"], folder, env)
    say("slug: the locked packages (about a minute)")
    _run([sys.executable, "-m", "venv", "--copies", ".heroku/python"], folder, env)
    python = str(folder / ".heroku/python/bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"]
    _run([*install, "--no-cache-dir", "--no-input", "--progress-bar", "off"], folder, env)
    say("slug: bin/post_compile")
    _run(["/bin/bash", "bin/post_compile"], folder, env)
    say("slug: measuring")
    standard = Path(sysconfig.get_path("stdlib"))
    return Slug(
        folder,
        compressed=_compressed(folder),
        unpacked=_unpacked(folder),
        interpreter=_compressed(
            standard, "./site-packages", "./dist-packages", "./test", "./config-*"
        ),
    )


def _checkout(folder: Path) -> None:
    folder.mkdir(parents=True)
    with subprocess.Popen(
        ["/usr/bin/env", "git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE
    ) as archive:
        subprocess.run(["/usr/bin/env", "tar", "-x"], cwd=folder, stdin=archive.stdout, check=True)
    if archive.returncode:
        raise BuildFailed("git archive failed: make dyno needs a clone with at least one commit.")
    for line in (folder / ".slugignore").read_text().split():
        ignored = folder / line.strip("/")
        if ignored.is_dir():
            shutil.rmtree(ignored)
        else:
            ignored.unlink(missing_ok=True)


def _run(argv: list[str], folder: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(argv, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BuildFailed(f"{argv[-1]} ended with status {done.returncode}: see above.")


def _compressed(folder: Path, *without: str) -> float:
    """MiB of the folder as a gzipped archive."""
    excludes = [f"--exclude={name}" for name in without]
    tar = ["/usr/bin/env", "tar", "-C", str(folder), *excludes, "-czf", "-", "."]
    size = 0
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while block := process.stdout.read(MIB):
            size += len(block)
    return size / MIB


def _unpacked(folder: Path) -> float:
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir()) / MIB
