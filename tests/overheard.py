"""Everything that the tests make the product say, kept: what children print, errors, logs.

`listening` is on for a whole run. Nothing is changed for who reads an output; it is copied.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import inspect
import io
import json
import os
import stat
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

import httpx2
import pytest

from faces.errors import LikenessError
from tests.private import Secrets

_MOST_OPEN = 100
_PRINTS_KEYS = ("app", "keys")
"""The one command whose purpose is to print a key."""


class Ear:
    """What was said so far, by whom and in which test, and what may not be among it."""

    def __init__(self) -> None:
        self.secrets = Secrets()
        self._said: dict[bytes, str] = {}
        self._lock = threading.Lock()
        self._followed: list[_Followed] = []

    def note(self, who: str, what: bytes | str | None, test: str | None = None) -> None:
        """Keep something that was said, in the present test if no other is named."""
        if what:
            data = what.encode("utf-8", "surrogatepass") if isinstance(what, str) else bytes(what)
            with self._lock:
                self._said.setdefault(data, f"{who}, during {test or _test()}")

    def follow(self, who: str, file: object, process: subprocess.Popen[Any]) -> None:
        """Keep what a process writes to a file of its own, even when that is deleted."""
        number = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
        if stat.S_ISREG(os.fstat(number).st_mode):
            self._followed.append(_Followed(self, who, number, process))
        if len(self._followed) > _MOST_OPEN:
            self._followed = [each for each in self._followed if not each.over()]

    def findings(self) -> list[str]:
        """A sentence for everything private that was said: what, by whom, in which test."""
        for each in self._followed:
            each.read()
        with self._lock:
            said = dict(self._said)
        return sorted({f"{kind} in {who}" for text, who in said.items()
                       for kind in self.secrets.found(text)})  # fmt: skip


class _Followed:
    """A file that a process writes, read by a descriptor of its own."""

    def __init__(self, ear: Ear, who: str, number: int, process: subprocess.Popen[Any]) -> None:
        self._ear, self._who, self._test = ear, who, _test()
        self._process = weakref.ref(process)
        self._at = os.fstat(number).st_size
        self._file = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def read(self) -> None:
        """Note what was written since the last time."""
        while data := os.pread(self._file, 1 << 20, self._at):
            self._at += len(data)
            self._ear.note(self._who, data, self._test)

    def over(self) -> bool:
        """Whether the process has ended; everything is noted then."""
        process = self._process()
        ended = process is None or process.returncode is not None
        if ended:
            self.read()
        return ended


class _Tee(io.RawIOBase):
    """A pipe's reading end that notes what is read."""

    def __init__(self, raw: io.RawIOBase, note: Callable[[bytes], None]) -> None:
        self._raw, self._note = raw, note

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        if count:
            self._note(bytes(buffer[:count]))
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextlib.contextmanager
def listening() -> Iterator[Ear]:
    """An ear at all children, HTTP answers and errors, until the end of the block."""
    ear = Ear()
    with pytest.MonkeyPatch.context() as patch:
        _hear_children(ear, patch)
        _hear_answers(ear, patch)
        _hear_errors(ear, patch)
        yield ear


def _hear_children(ear: Ear, patch: pytest.MonkeyPatch) -> None:
    begin, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate
    signature = inspect.signature(begin)

    @functools.wraps(begin)
    def init(process: subprocess.Popen[Any], *given: Any, **named: Any) -> None:
        named = dict(signature.bind(process, *given, **named).arguments)
        del named["self"]
        words = named["args"]
        words = [words] if isinstance(words, str | bytes | os.PathLike) else list(words)
        who = _name([os.fsdecode(word) for word in words])
        ear.secrets.add_environment(dict(named.get("env") or {}))
        with contextlib.ExitStack() as files:
            for name in ("stdout", "stderr"):
                if named.get(name) == subprocess.DEVNULL:
                    named[name] = files.enter_context(tempfile.TemporaryFile())
            begin(process, **named)
            if set(_PRINTS_KEYS) <= set(words):
                return
            process.heard_as = who  # type: ignore[attr-defined]
            for name in ("stdout", "stderr"):
                to = named.get(name)
                if to == subprocess.PIPE and not _protocol(named, name):
                    _tee(process, name, functools.partial(ear.note, f"{name} of {who}"))
                elif to is not None and not (isinstance(to, int) and to < 0):
                    ear.follow(f"{name} of {who}", to, process)

    @functools.wraps(communicate)
    def whole(process: subprocess.Popen[Any], *given: Any, **named: Any) -> tuple[Any, Any]:
        out, err = communicate(process, *given, **named)
        if (who := getattr(process, "heard_as", None)) is not None:
            ear.note(f"stdout of {who}", out)
            ear.note(f"stderr of {who}", err)
        return out, err

    patch.setattr(subprocess.Popen, "__init__", init)
    patch.setattr(subprocess.Popen, "communicate", whole)


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "no test").removesuffix(" (call)")


def _name(words: list[str]) -> str:
    """The program in a command, without what it is given: that may be private itself."""
    if "-m" in words:
        return " ".join(words[words.index("-m") + 1 :][:2])
    return os.path.basename(words[0])


def _protocol(named: dict[str, Any], name: str) -> bool:
    """Whether a child answers its parent here, as the decoder does: no log, but pixels."""
    return name == "stdout" and named.get("stdin") == subprocess.PIPE


def _tee(process: subprocess.Popen[Any], name: str, note: Callable[[bytes], None]) -> None:
    stream: IO[Any] = getattr(process, name)
    if isinstance(stream, io.TextIOWrapper):
        encoding, errors = stream.encoding, stream.errors
        inner = io.BufferedReader(_Tee(stream.detach().detach(), note))
        setattr(process, name, io.TextIOWrapper(inner, encoding=encoding, errors=errors))
    elif isinstance(stream, io.BufferedReader):
        setattr(process, name, io.BufferedReader(_Tee(stream.detach(), note)))


def _hear_answers(ear: Ear, patch: pytest.MonkeyPatch) -> None:
    send, read = httpx2.Client.send, http.client.HTTPResponse.read
    put_header = http.client.HTTPConnection.putheader

    @functools.wraps(send)
    def sent(client: httpx2.Client, request: httpx2.Request, **named: Any) -> httpx2.Response:
        ear.secrets.add("a key", request.headers.get("x-api-key"))
        ear.secrets.add_authorization(request.headers.get("authorization", ""))
        if "json" in request.headers.get("content-type", ""):
            with contextlib.suppress(ValueError, RecursionError, httpx2.RequestNotRead):
                ear.secrets.add_body(request.url.path, json.loads(request.content))
        answer = send(client, request, **named)
        if answer.status_code >= 400 and not named.get("stream"):
            ear.note(f"answer {answer.status_code} to {request.method}", answer.content)
            ear.note("its headers", repr(answer.headers.raw))
        return answer

    @functools.wraps(put_header)
    def header(connection: http.client.HTTPConnection, name: Any, *values: Any) -> None:
        if str(name).lower() == "x-api-key":
            ear.secrets.add("a key", str(values[0]))
        put_header(connection, name, *values)

    @functools.wraps(read)
    def heard(answer: http.client.HTTPResponse, *given: Any) -> bytes:
        data = read(answer, *given)
        if answer.status >= 400:
            ear.note(f"answer {answer.status}", data)
        return data

    patch.setattr(httpx2.Client, "send", sent)
    patch.setattr(http.client.HTTPConnection, "putheader", header)
    patch.setattr(http.client.HTTPResponse, "read", heard)


def _hear_errors(ear: Ear, patch: pytest.MonkeyPatch) -> None:
    begin, out = LikenessError.__init__, pytest.CaptureFixture.readouterr

    @functools.wraps(begin)
    def init(error: LikenessError, *given: Any, **named: Any) -> None:
        begin(error, *given, **named)
        ear.note(f"the detail of {type(error).__name__}", error.detail)

    @functools.wraps(out)
    def readouterr(capture: Any) -> Any:
        taken = out(capture)
        ear.note("output that a test took", taken.out)
        ear.note("stderr that a test took", taken.err)
        return taken

    patch.setattr(LikenessError, "__init__", init)
    patch.setattr(pytest.CaptureFixture, "readouterr", readouterr)
