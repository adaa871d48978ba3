"""Pictures inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from unsee.report.pictures import Embedded, Role, Wanted, embed


def decoded(embedded: Embedded) -> Image.Image:
    head, _, data = embedded.uri.partition(";base64,")
    assert head in {"data:image/png", "data:image/webp"}
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


def test_small_pictures_keep_every_pixel(build: Any) -> None:
    for side in (8, 32, 64):
        png = build.png(side, side)
        embedded = embed([(png, "record")])[png, "record"]
        assert np.array_equal(
            np.asarray(decoded(embedded).convert("RGB")), np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        )
        assert (embedded.width, embedded.height, embedded.crisp) == (side, side, True)


def test_large_pictures_are_scaled_to_their_role(build: Any) -> None:
    png = build.png(1, 600)
    roles: list[tuple[Role, int]] = [("query", 512), ("record", 256), ("thumbnail", 96)]
    embedded = embed([(png, role) for role, _ in roles])
    for role, side in roles:
        assert decoded(embedded[png, role]).size == (side, side) == (embedded[png, role].width,) * 2
    assert not embedded[png, "record"].crisp


def test_a_picture_that_is_not_square_keeps_its_shape() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 256), "red").save(buffer, "PNG")
    embedded = embed([(buffer.getvalue(), "record")])[buffer.getvalue(), "record"]
    assert (embedded.width, embedded.height) == (256, 64)


def test_nothing_but_pixels_is_embedded(build: Any) -> None:
    secret = PngImagePlugin.PngInfo()
    secret.add_text("comment", "SECRET-TOKEN")
    buffer = io.BytesIO()
    Image.open(io.BytesIO(build.png(1))).save(buffer, "PNG", pnginfo=secret)
    assert b"SECRET-TOKEN" in buffer.getvalue()
    embedded = embed([(buffer.getvalue(), "record")])[buffer.getvalue(), "record"]
    assert b"SECRET-TOKEN" not in base64.b64decode(embedded.uri.partition(";base64,")[2])


def test_quality_gives_way_to_the_budget_and_small_pictures_do_not(build: Any) -> None:
    large, small = build.png(1, 300), build.png(2, 32)
    wanted: list[Wanted] = [(large, "record")] * 4 + [(small, "record")]
    free, tight = embed(wanted), embed(wanted, budget=60_000)
    assert sum(len(free[key].uri) for key in wanted) > 60_000
    assert sum(len(tight[key].uri) for key in wanted) <= 60_000
    assert tight[small, "record"] == free[small, "record"]


def test_the_same_pictures_give_the_same_bytes_in_any_order(build: Any) -> None:
    wanted: list[Wanted] = [(build.png(seed, 100), "record") for seed in range(4)]
    assert embed(wanted) == embed(wanted[::-1])
