"""What a picture's header promises, judged before a decoder sees a byte of it.

`probe` is plain Python over the bytes: it decides the format by magic bytes alone, refuses what
would cost too much to decode, and hands the decoder only what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faces import jpeg, png, webp
from faces.errors import ImageTooLarge, InvalidImage, UnsupportedImage

Format = Literal["JPEG", "PNG", "WEBP"]

MAX_PIXELS_BASELINE = 50_000_000
"""Of a baseline JPEG, which decodes at a reduced size with little memory."""
MAX_PIXELS_PROGRESSIVE = 25_000_000
"""Of a progressive JPEG, which keeps all its coefficients at any size."""
MAX_PIXELS_OTHER = 17_000_000
"""Of PNG and WebP, which decode whole."""
MIN_SIDE = 16

_OTHERS = (
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"%PDF", 0, "PDF"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftypavis", 4, "AVIF"),
    (b"ftyphei", 4, "HEIC"),
    (b"ftyphev", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"),
    (b"ftypmsf1", 4, "HEIC"),
    (b"<svg", 0, "SVG"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """A picture's format and size as its header says, and how to turn it upright.

    `width` and `height` are of the upright picture, `orientation` is EXIF's 1 to 8.
    `complete` is False for a JPEG without an end marker: only decoding shows whether more is gone.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    progressive: bool = False
    complete: bool = True

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before it is turned upright."""
        turned = self.orientation >= 5
        return (self.height, self.width) if turned else (self.width, self.height)


def probe(data: bytes, *, max_bytes: int | None = None) -> Header:
    """The header of a JPEG, PNG or WebP picture; the extension and content type do not matter.

    Raises ImageTooLarge over `max_bytes`, UnsupportedImage for another format, and InvalidImage
    with reason `empty`, `truncated`, `dimensions`, `too_many_pixels`, `too_many_scans` or
    `decoder_failed` (a structure that no honest encoder writes).
    """
    if not data:
        raise InvalidImage("empty", "The picture has no bytes.")
    if max_bytes is not None and len(data) > max_bytes:
        raise ImageTooLarge(f"The picture has more than {max_bytes:,} bytes (MAX_UPLOAD_BYTES).")
    if data.startswith(jpeg.MAGIC):
        found = jpeg.read(data)
        limit, kind = (
            (MAX_PIXELS_PROGRESSIVE, "a progressive JPEG")
            if found.progressive
            else (MAX_PIXELS_BASELINE, "a baseline JPEG")
        )
        header = _header(
            "JPEG", found.width, found.height, found.orientation, found.progressive, found.complete
        )
    elif data.startswith(png.MAGIC):
        info = png.read(data)
        limit, kind = MAX_PIXELS_OTHER, "a PNG"
        header = _header("PNG", info.width, info.height, info.orientation)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        canvas = webp.read(data)
        limit, kind = MAX_PIXELS_OTHER, "a WebP"
        header = _header("WEBP", canvas.width, canvas.height, canvas.orientation)
    else:
        raise _unsupported(data)
    _check(header, limit, kind)
    return header


def decodable(data: bytes, header: Header) -> bytes:
    """The bytes that a decoder needs of a probed picture: one frame, no metadata.

    A JPEG is handed on whole: its decoder skips what it does not know.
    """
    if header.format == "PNG":
        return png.pixels_only(data)
    if header.format == "WEBP":
        return webp.first_frame(data)
    return data


def _header(
    format: Format,
    width: int,
    height: int,
    orientation: int,
    progressive: bool = False,
    complete: bool = True,
) -> Header:
    if orientation >= 5:
        width, height = height, width
    return Header(format, width, height, orientation, progressive, complete)


def _check(header: Header, limit: int, kind: str) -> None:
    if min(header.width, header.height) < MIN_SIDE:
        raise InvalidImage(
            "dimensions",
            f"The picture is {header.width} x {header.height} pixels; "
            f"its shorter side must be at least {MIN_SIDE}.",
        )
    if header.pixels > limit:
        raise InvalidImage(
            "too_many_pixels",
            f"The picture is {header.width} x {header.height} pixels; "
            f"{kind} may have at most {limit:,}.",
        )


def _unsupported(data: bytes) -> UnsupportedImage | InvalidImage:
    if jpeg.MAGIC.startswith(data) or png.MAGIC.startswith(data):
        return InvalidImage("truncated", "The picture ends within its first bytes.")
    head = data[:64].lstrip().lower() if data[:1] in b" \t\r\n<" else data[:64]
    name = next((n for magic, at, n in _OTHERS if head[at:].startswith(magic)), None)
    what = f"is {name}" if name else "is not a picture that can be read, by its bytes"
    return UnsupportedImage(f"The file {what}. Accepted are JPEG, PNG and WebP.")
