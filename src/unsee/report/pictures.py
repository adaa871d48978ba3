"""Pictures inside the page: as small as they must be, as sharp as they can be.

All pictures of a page are encoded with the same setting: the best one under which they stay within a budget together.
Small pictures are embedded losslessly, larger ones are scaled down and encoded as WebP. Every picture is encoded anew,
so nothing but its pixels (no text chunk, no EXIF) reaches the page.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from PIL import Image

BUDGET = 3_800_000
"""Characters of base64 that the pictures of a page may take together; its text takes the rest of 5 MB."""

CRISP_SIDE = 96
"""Longer side, in pixels, up to which a picture keeps its pixels' edges when it is enlarged."""

Role = Literal["query", "record", "thumbnail"]
Wanted = tuple[bytes, Role]


@dataclass(frozen=True)
class Embedded:
    """A picture as the page holds it.

    Attributes:
        uri: data URI.
        width, height: pixels of what is embedded.
        crisp: so few pixels that enlarging must keep their edges.
    """

    uri: str
    width: int
    height: int
    crisp: bool


@dataclass(frozen=True)
class _Setting:
    """Longer sides in pixels, by role and of the largest picture that stays lossless, and WebP's quality."""

    sides: dict[Role, int]
    lossless: int
    quality: int


_SETTINGS = [
    _Setting({"query": query, "record": record, "thumbnail": thumbnail}, lossless, quality)
    for query, record, thumbnail, lossless, quality in [
        (512, 256, 96, 64, 85),
        (448, 224, 96, 64, 80),
        (384, 192, 96, 48, 75),
        (320, 160, 96, 48, 65),
        (256, 128, 64, 32, 55),
        (192, 96, 64, 32, 40),
        (128, 64, 48, 32, 25),
    ]
]


def embed(wanted: Collection[Wanted], budget: int = BUDGET) -> dict[Wanted, Embedded]:
    """Encode every (PNG, role) that the page shows; a repeated one counts as often as it is repeated.

    Args:
        wanted: as often as the page holds them.
        budget: characters of base64; only a page of very many pictures exceeds it at the smallest setting.
    """
    times = Counter(wanted)
    sources = {key: _open(key[0], _SETTINGS[0].sides[key[1]]) for key in sorted(times)}
    lossless: dict[Wanted, Embedded] = {}
    done: dict[Wanted, Embedded] = {}
    for setting in _SETTINGS:
        total = 0
        for key, picture in sources.items():
            if total > budget and setting is not _SETTINGS[-1]:
                break
            if max(picture.size) > setting.lossless:
                done[key] = _lossy(picture, setting.sides[key[1]], setting.quality)
            else:
                done[key] = lossless[key] = lossless.get(key) or _lossless(picture)
            total += times[key] * len(done[key].uri)
        if total <= budget:
            break
    return done


def _open(png: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(png)) as picture:
        return _within(picture.convert("RGB"), side)


def _within(picture: Image.Image, side: int) -> Image.Image:
    """The picture, scaled down (LANCZOS) where its longer side is more than `side`."""
    longer = max(picture.size)
    if longer <= side:
        return picture
    width, height = (max(1, round(length * side / longer)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _lossless(picture: Image.Image) -> Embedded:
    png, webp = io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    picture.save(webp, "WEBP", lossless=True, quality=75, method=4)
    kind, data = min(("webp", webp.getvalue()), ("png", png.getvalue()), key=lambda item: len(item[1]))
    return _embedded(picture, kind, data)


def _lossy(picture: Image.Image, side: int, quality: int) -> Embedded:
    picture = _within(picture, side)
    webp = io.BytesIO()
    picture.save(webp, "WEBP", quality=quality, method=4)
    return _embedded(picture, "webp", webp.getvalue())


def _embedded(picture: Image.Image, kind: str, data: bytes) -> Embedded:
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Embedded(uri, picture.width, picture.height, crisp=max(picture.size) <= CRISP_SIDE)
