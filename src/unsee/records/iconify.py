"""Iconify icon sets (`icons.json`): from an icon's name to a complete SVG document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEFAULTS = {"left": 0, "top": 0, "width": 16, "height": 16}


def svg(icon_set: Mapping[str, Any], name: str, size: int) -> str | None:
    """The icon as an SVG of `size` x `size` pixels, its aspect ratio kept; None where the set has no such icon.

    An alias shows its parent, perhaps mirrored or turned by quarters; what it says itself goes before what the parent
    says, and quarters and mirrorings of a chain of aliases add up.
    """
    icon = _resolved(icon_set, name)
    if icon is None:
        return None
    box = {key: icon.get(key, icon_set.get(key, default)) for key, default in _DEFAULTS.items()}
    left, top, width, height = box["left"], box["top"], box["width"], box["height"]
    transforms = []
    quarters = icon["rotate"] % 4
    if quarters:
        transforms.append(f"rotate({90 * quarters} {left + width / 2} {top + height / 2})")
    if icon["hFlip"]:
        transforms.append(f"translate({2 * left + width} 0) scale(-1 1)")
    if icon["vFlip"]:
        transforms.append(f"translate(0 {2 * top + height}) scale(1 -1)")
    if quarters % 2:
        left, top = left + (width - height) / 2, top + (height - width) / 2
        width, height = height, width
    body = icon["body"]
    if transforms:
        body = f'<g transform="{" ".join(transforms)}">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{size}" height="{size}">{body}</svg>'
    )


def _resolved(icon_set: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An icon with all that its chain of aliases says; None where the chain ends nowhere, or in a circle."""
    found: dict[str, Any] = {"rotate": 0, "hFlip": False, "vFlip": False}
    aliases = icon_set.get("aliases", {})
    visited = set()
    while True:
        step = icon_set["icons"].get(name, aliases.get(name))
        if step is None or name in visited:
            return None
        visited.add(name)
        found = {**step, **found}
        found["rotate"] += step.get("rotate", 0)
        found["hFlip"] ^= step.get("hFlip", False)
        found["vFlip"] ^= step.get("vFlip", False)
        if "parent" not in step:
            return found
        name = step["parent"]
