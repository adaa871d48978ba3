"""What a record, a caption and a query are called: by their content."""

from __future__ import annotations

import hashlib

from PIL import Image


def pixel_digest(picture: Image.Image) -> str:
    """sha256, hex, over width, height and the bytes of the decoded RGB pixels."""
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    head = f"{rgb.width}x{rgb.height} RGB\n".encode()
    return hashlib.sha256(head + rgb.tobytes()).hexdigest()


def occurrence_id(digest: str, occurrence: int) -> str:
    """A record's id: the pixel digest and the occurrence number (0 for the first of exact duplicates)."""
    return f"{digest}-{occurrence}"


def caption_digest(caption: str) -> str:
    """sha256, hex, of a caption's UTF-8 bytes."""
    return hashlib.sha256(caption.encode()).hexdigest()
