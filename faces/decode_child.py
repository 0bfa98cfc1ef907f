"""The process that decodes pictures: `python -m faces.decode_child`, started by `faces.decoder`.

It reads requests from standard input and answers on standard output (`faces.frames`), one at a
time, holding one picture. It owns no other descriptor, knows no secret, may use a bounded amount
of memory and processor time, and ends when its parent does: then its input ends.

| op | head | body | answer |
|---|---|---|---|
| `open` | format, stored_size, orientation, complete, side | picture | size; upright BGR |
| `look` | side | | size; upright BGR, decoded anew when that is larger |
| `cut` | placements, size, finer | | fine, one flag each; crops, BGR, one after another |
| `jpeg` | box, side, cap | | a JPEG |
| `close` | | | |

Every answer's head has `error` (null, `truncated` or `decoder_failed`) and `rss`, in bytes.
"""

from __future__ import annotations

import os
import resource
import sys
import warnings
from typing import Any, BinaryIO

from PIL import Image

from faces import frames
from faces.raster import Raster
from faces.webp_decode import Truncated, WebpDecoder

HEADROOM = 352 * 2**20
"""Address space beyond what the process has at rest: half as much again as the hungriest picture
within the limits takes, a progressive CMYK JPEG of 25 megapixels."""
CPU_SECONDS = 5
"""Per request; the kernel ends the process, whatever the decoder is doing."""


def main() -> None:
    """Answer requests until the input ends."""
    webp = WebpDecoder.find()
    _confine()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    raster: Raster | None = None
    while (request := _read(requests)) is not None:
        head, body = request
        _allow_cpu(CPU_SECONDS)
        error: str | None = None
        answer: dict[str, Any] = {}
        content = b""
        try:
            if head["op"] == "open":
                raster = None  # before the next: two pictures at once are too much
                raster, answer, content = _open(head, body, webp)
            elif head["op"] == "close" or raster is None:
                raster = None
            elif head["op"] == "look":
                image = raster.look(head["side"])
                answer, content = {"size": image.size}, image.tobytes("raw", "BGR")
            elif head["op"] == "cut":
                answer, content = _cut(raster, head)
            elif head["op"] == "jpeg":
                content = raster.jpeg(tuple(head["box"]), head["side"], head["cap"])
        except Truncated:
            error = "truncated"
        except Exception:  # whatever a decoder raises is about the picture, and says no more
            error = "decoder_failed"
        del request, body
        answer |= {"error": error, "rss": _pages()[1]}
        answers.write(frames.pack(answer, len(content)))
        answers.write(content)
        answers.flush()


def _open(
    head: dict[str, Any], body: bytes, webp: WebpDecoder | None
) -> tuple[Raster, dict[str, Any], bytes]:
    width, height = head["stored_size"]
    raster = Raster(
        body,
        format=head["format"],
        stored_size=(width, height),
        orientation=head["orientation"],
        complete=head["complete"],
        side=head["side"],
        webp=webp,
    )
    image = raster.look(head["side"])
    return raster, {"size": image.size}, image.tobytes("raw", "BGR")


def _cut(raster: Raster, head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    crops, fine = [], []
    for placement in head["placements"]:
        crop = raster.cut(tuple(placement), head["size"], finer=head["finer"])
        crops.append(crop.tobytes("raw", "BGR"))
        fine.append(raster.is_fine(tuple(placement)))
    return {"fine": fine}, b"".join(crops)


def _read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next request, or None when the parent is gone."""
    lengths = stream.read(frames.LENGTHS.size)
    if len(lengths) < frames.LENGTHS.size:
        return None
    head_length, body_length = frames.LENGTHS.unpack(lengths)
    head, body = stream.read(head_length), stream.read(body_length)
    if len(head) + len(body) < head_length + body_length:
        return None
    return frames.unpack_head(head), body


def _confine() -> None:
    """Take the limits on, once everything that is needed is imported."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # the header was judged already, more strictly
    Image.init = lambda: False  # no plugin is looked for on disk
    space = _pages()[0] + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))


def _allow_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _pages() -> tuple[int, int]:
    """Address space and resident memory of this process, in bytes."""
    with open("/proc/self/statm", "rb") as file:
        size, resident = file.read().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(size) * page, int(resident) * page


if __name__ == "__main__":
    main()
