"""From the bytes of an image file to the 8-bit RGB picture in it, or to a plain reason why there is none.

What becomes of the less plain ones: CMYK, greyscale, palette and 16-bit images are converted; transparency is laid on
white; the EXIF orientation is applied; colour profiles are ignored, as training scripts do. Animations and multi-page
files are refused, since their first frame is not the picture that a caption speaks of, and so are 32-bit samples,
whose range no header tells.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow would also try formats that start programs (EPS) or that no captioned set holds; each is attack surface.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_LONGEST_SIDE_RATIO = 20
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 258, 262
_PNG_DEPTH_OFFSET = 24
_MODE_NAMES = {"1": "bilevel", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette"}


class Unreadable(Exception):
    """A file that holds no usable picture. The message is the reason: "is empty (0 bytes)"."""


def open_rgb(data: bytes | Path, max_megapixels: float) -> tuple[Image.Image, str | None]:
    """Decode one image file.

    Args:
        data: the file's bytes, or where it is.
        max_megapixels: more pixels than this are refused from the header alone, before anything is decoded.

    Returns:
        The picture, mode RGB, upright, and what was done to make it so ("CMYK to RGB"; None: nothing).

    Raises:
        Unreadable: with a reason that is the same for the same bytes.
    """
    try:
        if isinstance(data, bytes):
            return _decode(io.BytesIO(data), max_megapixels)
        if not data.is_file():
            raise Unreadable("is not a file" if data.exists() else "does not exist")
        with data.open("rb") as file:
            return _decode(file, max_megapixels)
    except Unreadable:
        raise
    except OSError as error:
        if error.strerror is None:
            raise Unreadable(f"cannot be decoded ({_brief(error)})") from error
        # The whole message would name the path, which differs where the same file lies elsewhere.
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except Exception as error:
        # Decoders raise whatever they like on hostile bytes: SyntaxError, struct.error, OSError, MemoryError, ...
        raise Unreadable(f"cannot be decoded ({_brief(error)})") from error


def _decode(file: BinaryIO, max_megapixels: float) -> tuple[Image.Image, str | None]:
    head = file.read(64)
    if not head:
        raise Unreadable("is empty (0 bytes)")
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise Unreadable(f"is not an image ({', '.join(_FORMATS)} are read)") from error
        except Image.DecompressionBombError as error:
            raise Unreadable(f"is a decompression bomb ({_brief(error)})") from error
        with picture:
            _check_shape(picture, max_megapixels)
            depth = _sample_bits(picture, head)
            turned = _orientation(picture) in range(2, 9)
            picture.load()
            rgb, notes = _to_rgb(ImageOps.exif_transpose(picture) if turned else picture, depth)
    if turned:
        notes.append("EXIF orientation applied")
    return rgb, ", ".join(notes) or None


def _check_shape(picture: Image.Image, max_megapixels: float) -> None:
    megapixels = picture.width * picture.height / 1e6
    if megapixels > max_megapixels:
        raise Unreadable(f"has {megapixels:,.1f} megapixels, the limit is {max_megapixels:g} (data.max_megapixels)")
    long, short = max(picture.size), min(picture.size)
    if long > _LONGEST_SIDE_RATIO * short:
        # Also keeps the resize to the training resolution from blowing up the long side.
        raise Unreadable(f"is {picture.width} x {picture.height} pixels: a square cut from it shows next to nothing")
    # A multi-picture JPEG (MPO) from a phone holds the picture itself first, then depth or gain maps.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise Unreadable("is animated or has several pages")


def _sample_bits(picture: Image.Image, head: bytes) -> int:
    """Bits per sample that the file holds, which the decoded mode does not always tell."""
    if picture.format == "PNG":
        return head[_PNG_DEPTH_OFFSET]
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    return 8


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data says nothing about the pixels
        return 1


def _to_rgb(picture: Image.Image, depth: int) -> tuple[Image.Image, list[str]]:
    mode = picture.mode
    if mode in ("I", "F"):
        raise Unreadable("holds 32-bit samples, whose range is unknown: save it with 8 or 16 bits per channel")
    if mode.startswith("I;"):
        return _scaled(picture, depth).convert("RGB"), [f"{depth}-bit greyscale to RGB"]
    notes = [] if mode == "RGB" else [f"{_MODE_NAMES.get(mode, mode)} to RGB"]
    if depth > 8:
        notes.append(f"{depth}-bit to 8-bit")
    if not picture.has_transparency_data:
        return picture.convert("RGB"), notes
    layer = picture.convert("RGBA")
    if layer.getchannel("A").getextrema() != (255, 255):
        notes.append("transparency flattened on white")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB"), notes


def _scaled(picture: Image.Image, depth: int) -> Image.Image:
    """Greyscale of more than 8 bits, [0, 2^depth - 1], to [0, 255], rounded (Pillow itself would clip at 255)."""
    top = 2**depth - 1
    samples = np.asarray(picture).astype(np.uint32)
    grey = ((samples * 255 + top // 2) // top).astype(np.uint8)
    if picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        grey = 255 - grey
    if "transparency" in picture.info:
        grey[samples == picture.info["transparency"]] = 255
    return Image.fromarray(grey)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
