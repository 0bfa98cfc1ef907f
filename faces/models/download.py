"""A published file to a temporary file on this machine, whole and verified or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from faces.errors import ModelFileError
from faces.models.progress import Progress
from faces.models.registry import Indexes, SourceUnavailable

if TYPE_CHECKING:
    import httpx2

CHUNK = 1 << 18
CONNECT_S, READ_S = 10.0, 60.0
RESUMES = 4
PAGE_CAP = 64 << 20
PARTIAL = ".partial-"


def client(indexes: Indexes | None, timeout_s: float | None = None) -> httpx2.Client:
    """An HTTP client with the proxies and certificates of the environment and of pip.

    A bundle that is named for pip is trusted besides the system's certificates.
    """
    import ssl

    import httpx2

    bundle = indexes.certificates if indexes else os.environ.get("PIP_CERT")
    verify: ssl.SSLContext | bool = True
    if bundle:
        place = Path(bundle)
        try:
            verify = ssl.create_default_context()
            verify.load_verify_locations(
                cafile=None if place.is_dir() else bundle, capath=bundle if place.is_dir() else None
            )
        except (OSError, ssl.SSLError) as error:
            raise ModelFileError(
                "The certificate bundle that PIP_CERT or pip's configuration names cannot be read."
            ) from error
    timeout = httpx2.Timeout(timeout_s or READ_S, connect=timeout_s or CONNECT_S)
    proxy = indexes.proxy if indexes else None
    return httpx2.Client(verify=verify, timeout=timeout, follow_redirects=True, proxy=proxy)


def page(http: httpx2.Client, url: str, accept: str) -> tuple[bytes, str, str]:
    """Body, media type and final URL of a page; raises SourceUnavailable unless it answers 200."""
    import httpx2

    try:
        with http.stream("GET", url, headers={"Accept": accept}) as answer:
            if answer.status_code != 200:
                raise SourceUnavailable(f"The source answered {answer.status_code}.")
            body = bytearray()
            for chunk in answer.iter_bytes(CHUNK):
                body += chunk
                if len(body) > PAGE_CAP:
                    raise SourceUnavailable("The source's page is larger than a page can be.")
            return bytes(body), answer.headers.get("content-type", ""), str(answer.url)
    except httpx2.HTTPError as error:
        raise SourceUnavailable("The source cannot be reached.") from error


def _file_chunks(url: str) -> Iterator[bytes]:
    path = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise SourceUnavailable("The source's local file cannot be read.") from error


def _http_chunks(http: httpx2.Client, url: str) -> Iterator[bytes]:
    """The body at a URL. A broken connection is taken up again where it broke."""
    import httpx2

    done, resumes = 0, 0
    while True:
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        try:
            with http.stream("GET", url, headers=headers) as answer:
                if answer.status_code != (206 if done else 200):
                    raise SourceUnavailable(f"The source answered {answer.status_code}.")
                for chunk in answer.iter_raw():
                    done += len(chunk)
                    yield chunk
                return
        except httpx2.HTTPError as error:
            resumes += 1
            if not done or resumes > RESUMES:
                state = f"broke off after {done} bytes" if done else "cannot be reached"
                raise SourceUnavailable(f"The source {state}.") from error


@contextlib.contextmanager
def verified(
    chunks: Iterator[bytes], folder: Path, name: str, size: int, sha256: str, progress: Progress
) -> Iterator[Path]:
    """A temporary file in `folder` that holds exactly the expected bytes; gone afterwards unless
    it was moved. Raises ModelFileError saying what was expected and what came."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, path_text = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
    path = Path(path_text)
    try:
        digest, done = hashlib.sha256(), 0
        progress.start(f"downloading {name}", size)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                done += len(chunk)
                if done > size:
                    break
                digest.update(chunk)
                file.write(chunk)
                progress.advance(done)
        if done != size or digest.hexdigest() != sha256:
            came = f"more than {size}" if done > size else str(done)
            raise ModelFileError(
                f"{name} is not what it should be, and was thrown away: expected {size} bytes with"
                f" SHA-256 {sha256}, came {came} bytes with {digest.hexdigest()}. Try again; if it"
                " stays so, the source serves another file."
            )
        progress.finish(f"{name}: {size} bytes, SHA-256 as expected")
        yield path
    finally:
        path.unlink(missing_ok=True)


def chunks(http: Callable[[], httpx2.Client], url: str) -> Iterator[bytes]:
    """The bytes at a `file:`, `http:` or `https:` URL."""
    if url.startswith("file:"):
        return _file_chunks(url)
    return _http_chunks(http(), url)
