"""The one safe decoder: a file or bytes in, an 8-bit RGB image out, or one line saying why not.

Decoding follows the reference (``Image.open(f).convert("RGB")``: alpha is dropped, not blended), so
scores match the published checkpoints, plus what a folder of real files needs: orientation tags are
applied, 16-bit is scaled rather than clipped, animations give their first frame, and a header that
claims more than ``max_pixels`` is refused before anything is allocated.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

log = logging.getLogger(__name__)

DEFAULT_MAX_PIXELS = 89_000_000
"""89 MP, e.g. 12,000 by 7,400, about 0.6 GB while decoding RGBA. Pillow itself warns from 89.5 MP
and refuses from 179 MP (``Image.MAX_IMAGE_PIXELS``), whatever is allowed here."""

_LARGE_PIXELS = 24_000_000
_large = threading.Lock()
_here = threading.local()

# Formats a picture comes in. Pillow knows more, among them some that start other programs (EPS).
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM",
    "TGA", "TIFF", "WEBP",
)  # fmt: skip
EXTENSIONS = frozenset(
    [
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".ico",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pcx",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
        ".heic",
        ".heif",
        ".hif",
    ]
)
"""What a folder scan takes for an image, lower case (HEIC included: it deserves an answer)."""

ImageSource = str | os.PathLike[str] | bytes | BinaryIO


def load_image(
    source: ImageSource | Image.Image, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """Decode a path, bytes or a binary file to mode RGB, upright, first frame.

    A PIL image (possibly not decoded yet) goes the same way, and is left as it was.
    Raises ImageError with one line: not an image, truncated, over ``max_pixels``, unreadable.
    """
    try:
        if isinstance(source, Image.Image):
            _check_size(source, max_pixels)
            return to_rgb(upright(source))
        if isinstance(source, (str, os.PathLike)):
            with Path(source).open("rb") as file:
                return _decode(file, max_pixels)
        return _decode(io.BytesIO(source) if isinstance(source, bytes) else source, max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large to decode safely: {error}") from error
    except OSError as error:
        if error.strerror:  # the file system's own words: no such file, permission denied, …
            raise ImageError(f"cannot read the file: {error.strerror}") from error
        raise ImageError(f"broken or truncated image: {one_line(error)}") from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, … on bad data
        raise ImageError(f"broken image: {one_line(error)}") from error


def declared_pixels(data: bytes) -> int:
    """What a file's header claims, width × height, without decoding; 0 if it is no image."""
    try:
        Image.init()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # load_image will say why; this only counts
        return 0


@contextmanager
def one_large_at_a_time() -> Iterator[None]:
    """Within it, an image over 24 MP that ``load_image`` decodes is the only such one in memory.

    For threads that decode side by side: enter once an image, leave when its pixels are done with.
    """
    _here.waits, _here.holds = True, False
    try:
        yield
    finally:
        if _here.holds:
            _large.release()
        _here.waits = _here.holds = False


def _wait_if_large(image: Image.Image) -> None:
    waits = getattr(_here, "waits", False) and not _here.holds
    if waits and image.width * image.height > _LARGE_PIXELS:
        _large.acquire()
        _here.holds = True


def _decode(file: BinaryIO, max_pixels: int) -> Image.Image:
    Image.init()  # once: `formats` may only name registered plug-ins
    head = file.read(32)
    file.seek(0)
    if not head:
        raise ImageError("the file is empty")
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(_why_unidentified(head)) from error
    _check_size(image, max_pixels)
    _wait_if_large(image)
    image.load()
    return to_rgb(upright(image, in_place=True))


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} by {height} pixels are {width * height / 1e6:.0f} MP, over the limit of "
            f"{max_pixels / 1e6:g} MP; raise max_pixels to take it"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB. Raises ImageError for float images, which have no fixed range."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit greyscale; Pillow's own conversion would clip at 255
        return Image.fromarray(_sixteen_to_eight(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ImageError("32-bit float pixels have no fixed range; convert to 8 or 16 bits first")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        # Through RGBA, since palettes with several transparent entries make Pillow complain.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    high_bytes: npt.NDArray[np.uint8] = (np.clip(array, 0, 65535).astype(np.uint32) >> 8).astype(
        "u1"
    )
    return high_bytes


def upright(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """Apply the orientation an image carries in EXIF or XMP."""
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except Exception as error:
        image.load()  # broken pixels raise here, and are not this function's to forgive
        log.warning("ignoring unreadable orientation tags: %s", one_line(error))
        return image


def _why_unidentified(head: bytes) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "HEIF/HEIC is not supported; convert it to PNG, JPEG or AVIF"
    return "not an image, or its header is broken"


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks, never empty."""
    return " ".join(str(error).split()) or type(error).__name__
