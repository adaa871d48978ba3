"""Icons and their aliases as SVG, judged by what a renderer makes of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resvg_py import svg_to_bytes

from unsee.records.iconify import svg

# A red quarter at the upper left, a green one at the upper right.
FLAG = '<path fill="#f00" d="M0 0h8v8H0z"/><path fill="#0f0" d="M8 0h8v8H8z"/>'
ICONS: dict[str, Any] = {"icons": {"flag": {"body": FLAG}, "wide": {"body": FLAG, "height": 8}}, "aliases": {}}


def drawn(name: str, **aliases: dict[str, Any]) -> np.ndarray:
    document = svg({**ICONS, "aliases": aliases}, name, 32)
    assert document is not None
    return np.asarray(Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=document)))).convert("RGBA"))


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ({}, lambda a: a),
        ({"hFlip": True}, lambda a: a[:, ::-1]),
        ({"vFlip": True}, lambda a: a[::-1]),
        ({"hFlip": True, "vFlip": True}, lambda a: a[::-1, ::-1]),
        ({"rotate": 1}, lambda a: np.rot90(a, -1)),
        ({"rotate": 6}, lambda a: np.rot90(a, 2)),
        ({"rotate": 3, "hFlip": True}, lambda a: np.rot90(a[:, ::-1], 1)),
    ],
)
@pytest.mark.parametrize("parent", ["flag", "wide"])
def test_aliases_turn_and_mirror_their_parent(parent: str, alias: dict[str, Any], expected: Any) -> None:
    assert (drawn("b", b={"parent": parent, **alias}) == expected(drawn(parent))).all()


def test_chains_add_up() -> None:
    a = {"parent": "flag", "rotate": 1}
    b = {"parent": "a", "rotate": 1, "hFlip": True}
    assert (drawn("b", a=a, b=b) == drawn("flag")[::-1, ::-1][:, ::-1]).all()
    twice = {"parent": "b", "hFlip": True}
    assert (drawn("c", a=a, b=b, c=twice) == drawn("flag")[::-1, ::-1]).all()


def test_sizes_come_from_the_alias_then_the_icon_then_the_set() -> None:
    def view_box(name: str, icons: dict[str, Any]) -> str:
        document = svg(icons, name, 32)
        assert document is not None
        return document.split('viewBox="')[1].split('"')[0]

    assert view_box("flag", ICONS) == "0 0 16 16"
    sized = {**ICONS, "width": 36, "height": 36, "aliases": {"cut": {"parent": "wide", "left": 2}}}
    assert view_box("flag", sized) == "0 0 36 36"
    assert view_box("wide", sized) == "0 0 36 8"
    assert view_box("cut", sized) == "2 0 36 8"


def test_what_leads_nowhere_is_none() -> None:
    assert svg(ICONS, "absent", 32) is None
    circle = {"a": {"parent": "b"}, "b": {"parent": "a"}, "c": {"parent": "absent"}}
    for name in circle:
        assert svg({**ICONS, "aliases": circle}, name, 32) is None
