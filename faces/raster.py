"""One picture being decoded, inside the decoder's child: Pillow, and nothing else of ours.

Coordinates that come in are corner coordinates (pixel `i` covers `[i, i + 1]`) of the upright
picture at its full size. The stored pixels are never turned or converted as a whole: both happen
to the small pieces that are cut out of them.
"""

from __future__ import annotations

import io
import math

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from faces.webp_decode import Truncated, WebpDecoder

PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
BACKGROUND = (255, 255, 255)
"""What shines through where a picture is transparent."""
SHARP_ENOUGH = 1.1
"""Crop pixels per decoded pixel above which a finer decode is worth its time."""
PREFILTER = 1.5
"""Decoded pixels per crop pixel from which on a piece is shrunk before it is warped."""
MAX_DECODED = 17_000_000
"""Pixels of a finer decode: 68 MB."""
_STRIP_PIXELS = 1_000_000
_JPEG_END = b"\xff\xd9"

Affine = tuple[float, float, float, float, float, float]
"""`(a, b, c, d, e, f)`: x' = a x + b y + c, y' = d x + e y + f."""

# What EXIF's orientations do to the stored pixels so that they stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def stored_from_upright(orientation: int, width: float, height: float) -> Affine:
    """Where a point of the upright picture lies among the stored pixels of that size."""
    w, h = float(width), float(height)
    return {
        1: (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        2: (-1.0, 0.0, w, 0.0, 1.0, 0.0),
        3: (-1.0, 0.0, w, 0.0, -1.0, h),
        4: (1.0, 0.0, 0.0, 0.0, -1.0, h),
        5: (0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
        6: (0.0, 1.0, 0.0, -1.0, 0.0, h),
        7: (0.0, -1.0, w, -1.0, 0.0, h),
        8: (0.0, -1.0, w, 1.0, 0.0, 0.0),
    }[orientation]


def compose(outer: Affine, inner: Affine) -> Affine:
    """The map that applies `inner` first and `outer` to its result."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    return (a * g + b * j, a * h + b * k, a * i + b * m + c,
            d * g + e * j, d * h + e * k, d * i + e * m + f)  # fmt: skip


def _step(placement: Affine) -> float:
    """Full-size pixels per crop pixel."""
    return math.sqrt(abs(placement[0] * placement[4] - placement[1] * placement[3]))


class Raster:
    """A picture's bytes and its pixels at the scale decoded last."""

    def __init__(
        self,
        data: bytes,
        *,
        format: str,
        stored_size: tuple[int, int],
        orientation: int,
        complete: bool,
        side: int,
        webp: WebpDecoder | None = None,
    ) -> None:
        """Decode so that the longest side keeps at least `side` pixels where it has them.

        Without `webp` Pillow decodes WebP, always whole.

        Raises Truncated, and OSError, ValueError or MemoryError as Pillow does.
        """
        self._data = data
        self._format = format
        self._webp = webp if format == "WEBP" else None
        self._stored = stored_size
        self._orientation = orientation
        if format == "JPEG" and not complete:
            self._data = self._completed(data, side)
        self._pixels = self._decode(self._data, self._affordable(max(stored_size) / side))

    def look(self, side: int) -> Image.Image:
        """The upright RGB picture, its longest side at most `side` pixels, as fine as that is."""
        self._refine(max(self._stored) / side)
        width, height = self._pixels.size
        shrink = min(1.0, side / max(width, height))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        return self._upright(self._shrunk((0, 0, width, height), size))

    def cut(self, placement: Affine, size: int, *, finer: bool) -> Image.Image:
        """The square RGB crop whose corner coordinates `placement` maps to the upright picture.

        With `finer` the picture is decoded again, larger, where the crop would be blurred.
        """
        step = _step(placement)
        if finer and not self.is_fine(placement):
            self._refine(max(1.0, step))
        mapping = stored_from_upright(self._orientation, *self._stored)
        return self._warp(compose(mapping, placement), step, size)

    def is_fine(self, placement: Affine) -> bool:
        """Whether a crop there has about as many decoded pixels as its own, or all there are."""
        return self._reduction <= max(1.0, _step(placement)) * SHARP_ENOUGH

    def jpeg(self, box: tuple[float, float, float, float], side: int, cap: int) -> bytes:
        """The part of the upright picture in `box` (left, top, right, bottom) as a JPEG.

        At most `side` pixels long and `cap` bytes large: the quality, then the size give way.
        """
        left, top, right, bottom = box
        self._refine(max(right - left, bottom - top) / side)
        mapping = stored_from_upright(self._orientation, *self._stored)
        x = self._pixels.size[0] / self._stored[0]
        y = self._pixels.size[1] / self._stored[1]
        a, b, c, d, e, f = compose((x, 0.0, 0.0, 0.0, y, 0.0), mapping)
        ends = (left, top), (right, bottom)
        corners = [(a * u + b * v + c, d * u + e * v + f) for u, v in ends]
        columns, rows = self._pixels.size
        xs = sorted(min(max(u, 0.0), columns - 1.0) for u, _ in corners)
        ys = sorted(min(max(v, 0.0), rows - 1.0) for _, v in corners)
        x0, y0 = math.floor(xs[0]), math.floor(ys[0])
        region = x0, y0, min(columns, math.ceil(xs[1]) + 1), min(rows, math.ceil(ys[1]) + 1)
        width, height = region[2] - x0, region[3] - y0
        while True:
            shrink = min(1.0, side / max(width, height))
            size = max(1, round(width * shrink)), max(1, round(height * shrink))
            piece = self._upright(self._shrunk(region, size))
            for quality in (88, 80, 70, 60, 45, 30):
                out = io.BytesIO()
                piece.save(out, "JPEG", quality=quality)
                if out.tell() <= cap:
                    return out.getvalue()
            side = max(16, min(side, max(size)) * 2 // 3)
            cap = cap if side > 16 else 2**31

    @property
    def _reduction(self) -> float:
        """Stored pixels per decoded pixel."""
        return self._stored[0] / self._pixels.size[0]

    def _refine(self, step: float) -> None:
        """Decode again, larger, where `step` stored pixels per pixel ask for it."""
        by = self._affordable(step)
        shrinks = self._format == "JPEG" or self._webp is not None
        if shrinks and by < round(self._reduction):
            self._pixels = self._decode(self._data, by)

    def _affordable(self, step: float) -> int:
        """The largest reduction of 1, 2, 4 and 8 not above `step`, or more if memory is short."""
        by = next(r for r in (8, 4, 2, 1) if r <= max(1.0, step))
        while self._stored[0] * self._stored[1] > MAX_DECODED * by * by:
            by *= 2
        return by

    def _decode(self, data: bytes, by: int) -> Image.Image:
        """The stored pixels, those of JPEG and WebP reduced by 1, 2, 4 or 8."""
        if self._webp is not None:
            return self._webp.decode(data, self._stored, by)
        image = Image.open(io.BytesIO(data), formats=[self._format])
        if image.size != self._stored:
            raise ValueError("the decoder sees another size than the header says")
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            if by > 1:
                width, height = image.size
                image.draft(None, (max(1, width // by), max(1, height // by)))
            image.decodermaxblock = len(data) + 1  # in one piece: no copying to and fro
        try:
            image.load()
        except OSError as error:
            if "truncated" in str(error):
                raise Truncated from error
            raise
        return image

    def _completed(self, data: bytes, side: int) -> bytes:
        """A JPEG without an end marker, with one. Raises Truncated when pixels are missing, too.

        libjpeg fills what is missing and says nothing. When all pixels are there, bytes put in
        before the end marker are skipped; when not, they are read as pixels and change them.
        """
        by = self._affordable(max(self._stored) / side)
        data = data.rstrip(b"\xff")  # half an end marker
        ends = (data + _JPEG_END, data + b"\xa5\x5a\x3c" * 40 + _JPEG_END)
        first, second = (self._decode(end, by).tobytes() for end in ends)
        if first != second:
            raise Truncated
        return ends[0]

    def _warp(self, stored: Affine, step: float, size: int) -> Image.Image:
        x = self._pixels.size[0] / self._stored[0]
        y = self._pixels.size[1] / self._stored[1]
        a, b, c, d, e, f = compose((x, 0.0, 0.0, 0.0, y, 0.0), stored)
        corners = [(a * u + b * v + c, d * u + e * v + f) for u in (0, size) for v in (0, size)]
        margin = 2 + math.ceil(step * x)
        left = math.floor(min(u for u, _ in corners)) - margin
        top = math.floor(min(v for _, v in corners)) - margin
        right = math.ceil(max(u for u, _ in corners)) + margin
        bottom = math.ceil(max(v for _, v in corners)) + margin
        left, right = max(0, left), min(self._pixels.size[0], right)
        top, bottom = max(0, top), min(self._pixels.size[1], bottom)
        if left >= right or top >= bottom:
            return Image.new("RGB", (size, size))
        dense = step * math.sqrt(x * y)  # decoded pixels per crop pixel
        width, height = right - left, bottom - top
        shrunk = (width, height)
        if dense > PREFILTER:
            shrunk = max(1, round(width / dense)), max(1, round(height / dense))
        piece = self._shrunk((left, top, right, bottom), shrunk)
        local = compose(
            (shrunk[0] / width, 0.0, -left * shrunk[0] / width,
             0.0, shrunk[1] / height, -top * shrunk[1] / height),
            (a, b, c, d, e, f),
        )  # fmt: skip
        return piece.transform(
            (size, size), Image.Transform.AFFINE, local, Image.Resampling.BILINEAR
        )

    def _shrunk(self, region: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
        """A region of the stored pixels as RGB of this size, by strips to save memory."""
        left, top, right, bottom = region
        width, height = right - left, bottom - top
        if width * height <= 4 * _STRIP_PIXELS:
            piece = rgb(self._pixels.crop(region))
            return piece if piece.size == size else _resized(piece, size)
        # Whole strips of a whole divisor first, then the rest of the way.
        divisor = max(1, min(width // size[0], height // size[1]) * 2 // 3)
        rows = max(1, _STRIP_PIXELS // width // divisor) * divisor
        coarse = Image.new("RGB", (-(-width // divisor), -(-height // divisor)))
        for y in range(top, bottom, rows):
            strip = rgb(self._pixels.crop((left, y, right, min(bottom, y + rows))))
            coarse.paste(strip.reduce(divisor) if divisor > 1 else strip, (0, (y - top) // divisor))
        return coarse if coarse.size == size else _resized(coarse, size)

    def _upright(self, image: Image.Image) -> Image.Image:
        turn = _UPRIGHT.get(self._orientation)
        return image if turn is None else image.transpose(turn)


def rgb(image: Image.Image) -> Image.Image:
    """The same pixels in RGB: 16 bits scaled to 8, transparency over BACKGROUND."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        wide = image.convert("I")
        return wide.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = Image.new("RGB", image.size, BACKGROUND)
        ground.paste(layered, mask=layered.getchannel("A"))
        return ground
    return image.convert("RGB")


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resized with a filter that grows with the reduction, so that nothing aliases.

    Of Pillow's filters Hamming's comes closest to averaging by area, which moves the detector's
    landmarks least: 0.1 % of a face's width, where the bilinear one moves them by up to 6 %.
    """
    return image.resize(size, Image.Resampling.HAMMING)
