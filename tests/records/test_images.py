"""Every file becomes an upright 8-bit RGB picture, or a plain reason."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from unprivileged import unprivileged
from unsee.records.images import Unreadable, open_rgb

LIMIT = 64.0


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 12, height: int = 8) -> Image.Image:
    """Smooth and without symmetry, so that any turn or mirroring shows, and lossy formats keep it."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((np.stack([x, y, (x + y) / 2], -1) * 255).astype(np.uint8))


def png_header(width: int, height: int, depth: int, colour: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(samples: np.ndarray, *extra: bytes) -> bytes:
    """A PNG of 16 bits per sample, [H, W] greyscale or [H, W, 3] RGB, written from the specification."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = png_header(width, height, 16, 0 if samples.ndim == 2 else 2)
    return b"".join([header, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def test_a_plain_picture_is_left_alone(tmp_path: Path) -> None:
    data = saved(scene())
    (tmp_path / "a.png").write_bytes(data)
    for given_as in (data, tmp_path / "a.png"):
        picture, conversion = open_rgb(given_as, LIMIT)
        assert (picture.mode, conversion) == ("RGB", None)
        assert picture.tobytes() == scene().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_usual_formats_are_read(kind: str) -> None:
    picture, _ = open_rgb(saved(Image.new("RGB", (16, 16), (200, 40, 40)), kind), LIMIT)
    assert np.abs(np.asarray(picture).astype(int) - [200, 40, 40]).max() <= 6


@pytest.mark.parametrize(
    ("picture", "kind", "expected", "conversion"),
    [
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0), "CMYK to RGB"),
        (Image.new("L", (4, 4), 70), "PNG", (70, 70, 70), "greyscale to RGB"),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255), "bilevel to RGB"),
        (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), "PNG", (9, 8, 7), "palette to RGB"),
        (Image.new("RGBA", (4, 4), (9, 8, 7, 255)), "PNG", (9, 8, 7), "RGBA to RGB"),
        (
            Image.new("RGBA", (4, 4), (9, 8, 7, 0)),
            "PNG",
            (255, 255, 255),
            "RGBA to RGB, transparency flattened on white",
        ),
        (
            Image.new("LA", (4, 4), (0, 51)),
            "PNG",
            (204, 204, 204),
            "greyscale to RGB, transparency flattened on white",
        ),
    ],
)
def test_other_modes_are_converted_and_told(
    picture: Image.Image, kind: str, expected: tuple[int, ...], conversion: str
) -> None:
    rgb, told = open_rgb(saved(picture, kind), LIMIT)
    assert told == conversion
    assert rgb.mode == "RGB"
    assert (np.asarray(rgb) == expected).all()


def test_cmyk_jpeg_keeps_its_colour() -> None:
    rgb, told = open_rgb(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), LIMIT)
    assert told == "CMYK to RGB"
    assert np.abs(np.asarray(rgb).astype(int) - [255, 0, 0]).max() <= 8


def test_a_transparent_palette_entry_becomes_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    rgb, told = open_rgb(saved(palette, transparency=0), LIMIT)
    assert told == "palette to RGB, transparency flattened on white"
    assert (rgb.getpixel((0, 0)), rgb.getpixel((1, 0))) == ((255, 255, 255), (0, 0, 255))


def test_16_bit_greyscale_is_scaled_not_clipped() -> None:
    samples = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for data in (deep_png(samples), saved(Image.fromarray(samples), "TIFF")):
        rgb, told = open_rgb(data, LIMIT)
        assert told == "16-bit greyscale to RGB"
        assert np.asarray(rgb)[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_16_bit_greyscale_where_zero_is_white_is_turned_round() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    plain = saved(Image.fromarray(np.array([[0, 65535]], np.uint16)), "TIFF", tiffinfo=tags)
    # The tag PhotometricInterpretation (262), type short, one value: 1 (black is zero) becomes 0 (white is zero).
    black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert plain.count(black) == 1
    rgb, _ = open_rgb(plain.replace(black, white), LIMIT)
    assert np.asarray(rgb)[0, :, 0].tolist() == [255, 0]


def test_16_bit_transparent_grey_becomes_white() -> None:
    samples = np.array([[0, 300, 65535]], np.uint16)
    rgb, _ = open_rgb(deep_png(samples, chunk(b"tRNS", struct.pack(">H", 300))), LIMIT)
    assert np.asarray(rgb)[0, :, 0].tolist() == [0, 255, 255]


def test_16_bit_colour_is_told() -> None:
    samples = np.full((2, 2, 3), [65535, 32768, 0], np.uint16)
    rgb, told = open_rgb(deep_png(samples), LIMIT)
    assert told == "16-bit to 8-bit"
    assert rgb.getpixel((0, 0)) == (255, 128, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = scene(48, 32)
    rgb, told = open_rgb(saved(stored, kind, exif=exif, **options), LIMIT)
    expected = turned(np.asarray(stored))
    assert rgb.size == (expected.shape[1], expected.shape[0])
    assert np.abs(np.asarray(rgb).astype(int) - expected).mean() < 6
    assert told == (None if orientation == 1 else "EXIF orientation applied")


def test_16_bit_pictures_are_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(np.array([[0, 65535]], np.uint16)), "PNG", exif=exif)
    rgb, told = open_rgb(data, LIMIT)
    assert told == "16-bit greyscale to RGB, EXIF orientation applied"
    assert np.asarray(rgb)[:, 0, 0].tolist() == [0, 255]


def test_damaged_exif_costs_nothing_but_the_orientation() -> None:
    data = saved(scene(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    rgb, told = open_rgb(data, LIMIT)
    assert (rgb.tobytes(), told) == (scene().tobytes(), None)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animations_and_pages_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(3)]
    with pytest.raises(Unreadable, match="is animated or has several pages"):
        open_rgb(saved(frames[0], kind, save_all=True, append_images=frames[1:]), LIMIT)


def test_the_picture_of_a_multi_picture_jpeg_is_its_first() -> None:
    data = saved(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    rgb, _ = open_rgb(data, LIMIT)
    assert np.abs(np.asarray(rgb).astype(int) - [255, 0, 0]).max() <= 6


def test_samples_of_unknown_range_are_refused() -> None:
    for dtype in (np.int32, np.float32):
        with pytest.raises(Unreadable, match="32-bit samples"):
            open_rgb(saved(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"), LIMIT)


def test_a_bomb_is_refused_from_its_header() -> None:
    # No pixel follows the header, so the reason would be another one if decoding had begun.
    with pytest.raises(Unreadable, match=r"has 81\.0 megapixels, the limit is 64 \(data\.max_megapixels\)"):
        open_rgb(png_header(9000, 9000, 8, 2) + chunk(b"IDAT", b""), LIMIT)
    with pytest.raises(Unreadable, match="decompression bomb"):
        open_rgb(png_header(50_000, 50_000, 8, 2) + chunk(b"IDAT", b""), LIMIT)


def test_the_limit_is_the_params_limit() -> None:
    data = saved(Image.new("RGB", (100, 100)))
    open_rgb(data, 0.01)
    with pytest.raises(Unreadable, match="megapixels"):
        open_rgb(data, 0.0099)


def test_slivers_are_refused() -> None:
    open_rgb(saved(Image.new("RGB", (200, 10))), LIMIT)
    with pytest.raises(Unreadable, match="is 201 x 10 pixels"):
        open_rgb(saved(Image.new("RGB", (201, 10))), LIMIT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello", "is not an image"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded|is not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is not an image"),
        (saved(scene(64, 64))[:-40], "cannot be decoded"),
        (saved(scene(64, 64), "JPEG")[:-200], "cannot be decoded"),
    ],
)
def test_what_is_no_picture_has_a_plain_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    told = set()
    for given_as in (data, tmp_path / "file"):
        with pytest.raises(Unreadable, match=reason) as raised:
            open_rgb(given_as, LIMIT)
        told.add(str(raised.value))
    assert len(told) == 1, "the reason does not depend on where the bytes come from"
    assert "0x" not in told.pop()


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, reason in {"absent.png": "does not exist", ".": "is not a file", "fifo": "is not a file"}.items():
        with pytest.raises(Unreadable, match=reason):
            open_rgb(tmp_path / name, LIMIT)


def test_why_a_file_cannot_be_read_is_told_without_its_path(tmp_path: Path) -> None:
    told = set()
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "closed.png").write_bytes(saved(scene()))
        (folder / "closed.png").chmod(0)
        with unprivileged(tmp_path), pytest.raises(Unreadable) as raised:
            open_rgb(folder / "closed.png", LIMIT)
        told.add(str(raised.value))
    assert told == {"cannot be read (Permission denied)"}


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"]), share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_never_half_a_picture(kind: str, share: float) -> None:
    whole = saved(scene(40, 30), kind)
    try:
        picture, _ = open_rgb(whole[: int(len(whole) * share)], LIMIT)
    except Unreadable:
        return
    # What is cut may be but a trailer.
    assert picture.tobytes() == open_rgb(whole, LIMIT)[0].tobytes()


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG", "AVIF"]), seed=st.integers(0, 2**32))
def test_damaged_files_are_pictures_or_unreadable_and_nothing_else(kind: str, seed: int) -> None:
    data = bytearray(saved(scene(24, 24), kind))
    chance = random.Random(seed)  # noqa: S311
    for _ in range(chance.randint(1, 12)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with contextlib.suppress(Unreadable):
        assert open_rgb(bytes(data), 1.0)[0].mode == "RGB"
