"""WebP decoded at the size that is wanted, by the libwebp that Pillow brings along.

Pillow itself decodes every WebP through the animation decoder: 17 bytes for each pixel of the
picture, 270 MB at 16 megapixels. libwebp's own call scales while it decodes and needs a part of it.
The structures are those of `webp/decode.h`, whose version the library checks.
"""

from __future__ import annotations

import ctypes
import re

from PIL import Image

_ABI_VERSION = 0x0209
_MODE_RGB, _MODE_RGBA = 0, 1
_OK, _SUSPENDED, _NOT_ENOUGH_DATA = 0, 5, 7
_LIBRARY = re.compile(r"/libwebp[-.][^/]*$")


class Truncated(Exception):
    """The pixels end early."""


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Rgba(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("stride", ctypes.c_int),
        ("size", ctypes.c_size_t),
        ("pad", ctypes.c_uint8 * 56),  # the union's other member, planes of YUVA, is larger
    )


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("colorspace", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("is_external_memory", ctypes.c_int),
        ("rgba", _Rgba),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("bypass_filtering", ctypes.c_int),
        ("no_fancy_upsampling", ctypes.c_int),
        ("use_cropping", ctypes.c_int),
        ("crop", ctypes.c_int * 4),
        ("use_scaling", ctypes.c_int),
        ("scaled_width", ctypes.c_int),
        ("scaled_height", ctypes.c_int),
        ("use_threads", ctypes.c_int),
        ("dithering_strength", ctypes.c_int),
        ("flip", ctypes.c_int),
        ("alpha_dithering_strength", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    _fields_ = (("input", _Features), ("output", _Buffer), ("options", _Options))


class WebpDecoder:
    """Decodes still WebP pictures at any size up to their own."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("WebPGetFeaturesInternal", "WebPInitDecoderConfigInternal", "WebPDecode"):
            getattr(library, name).restype = ctypes.c_int
        library.WebPFreeDecBuffer.restype = None

    @classmethod
    def find(cls) -> WebpDecoder | None:
        """One that uses the libwebp that Pillow has loaded; None when it is built in differently.

        Without it Pillow decodes the same pixels and takes more memory.
        """
        with open("/proc/self/maps") as file:
            names = {line.split(maxsplit=5)[-1].strip() for line in file if " r-xp " in line}
        path = next((name for name in sorted(names) if _LIBRARY.search(name)), None)
        if path is None or not hasattr(library := ctypes.CDLL(path), "WebPDecode"):
            return None
        return cls(library)

    def decode(self, data: bytes, stored_size: tuple[int, int], by: int) -> Image.Image:
        """An RGB or RGBA image, the stored size divided by `by`.

        Raises Truncated, MemoryError and, when it is damaged or of another size, ValueError.
        """
        config = _Config()
        call, address, length = self._library, data, ctypes.c_size_t(len(data))
        if not call.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI_VERSION):
            raise ValueError("libwebp speaks another version of its interface")
        status = call.WebPGetFeaturesInternal(
            address, length, ctypes.byref(config.input), _ABI_VERSION
        )
        _raise_for(status)
        if (config.input.width, config.input.height) != stored_size:
            raise ValueError("the decoder sees another size than the header says")
        width, height = (max(1, side // by) for side in stored_size)
        config.options.use_scaling = int(by > 1)
        config.options.scaled_width, config.options.scaled_height = width, height
        alpha = bool(config.input.has_alpha)
        config.output.colorspace = _MODE_RGBA if alpha else _MODE_RGB
        try:
            _raise_for(call.WebPDecode(address, length, ctypes.byref(config)))
            output = config.output.rgba
            rows = (ctypes.c_uint8 * output.size).from_address(output.pixels)
            mode = "RGBA" if alpha else "RGB"
            return Image.frombytes(mode, (width, height), rows, "raw", mode, output.stride)
        finally:
            call.WebPFreeDecBuffer(ctypes.byref(config.output))


def _raise_for(status: int) -> None:
    if status in (_SUSPENDED, _NOT_ENOUGH_DATA):
        raise Truncated
    if status == 1:
        raise MemoryError
    if status != _OK:
        raise ValueError("the WebP is damaged")
