"""The emoji recipe: the same concepts drawn in five styles, each style with its own contributors and licence.

Four styles are SVG icon sets, one is a folder of WebP files; the concepts' names come from emojibase. They meet at
the emoji's code points. Every archive is pinned by its checksum, so the same choice gives the same files everywhere.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from unsee.errors import InputError
from unsee.records import npm
from unsee.records.candidates import Candidate, Intake
from unsee.records.iconify import svg
from unsee.records.images import Unreadable, open_rgb
from unsee.records.npm import Package
from unsee.records.training_set import Quarantined

GROUPS = (
    "smileys-emotion",
    "people-body",
    "component",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
"""Emojibase's groups; the position is the group's number in its data."""

RASTER_SIZE = 128
_MAX_MEGAPIXELS = 1.0
_NAMES = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")


@dataclass(frozen=True)
class Style:
    """A drawing style: where it comes from, its SPDX licence, and how its archive is laid out."""

    package: Package
    license: str
    read: Callable[[Path, Mapping[str, str]], dict[str, str | bytes]]


@dataclass(frozen=True)
class _Drawing:
    """One concept in one style: an SVG document, or the bytes of an image file."""

    style: str
    code: str
    label: str
    content: str | bytes


def code_of(code_points: str) -> str:
    """The key that all sources share: hyphenated lower-case hex code points, no `fe0f`, no leading zeros.

    >>> code_of("0023-FE0F-20E3")
    '23-20e3'
    """
    points = (point.lstrip("0") or "0" for point in code_points.lower().split("-"))
    return "-".join(point for point in points if point != "fe0f")


def intake(groups: Sequence[str], styles: Sequence[str], cache: Path) -> Intake:
    """Fetch what the chosen groups and styles need and make the drawings ready to be read.

    Drawings come style by style, in the order of `STYLES`, and by code point within a style.

    Args:
        groups: some of `GROUPS`.
        styles: some of the keys of `STYLES`.
        cache: folder in which the archives are kept.

    Raises:
        InputError: there is no such group.
        NpmMissing, EnvironmentProblem: see `npm.fetch`.
    """
    for group in groups:
        if group not in GROUPS:
            remedy = f"Choose from {', '.join(GROUPS)}."
            raise InputError(f"there is no emoji group '{group}'.", field="data.emoji_groups", remedy=remedy)
    chosen = _chosen(styles)
    archives = {package: npm.fetch(package, cache) for package in _packages(styles)}
    labels = _labels(archives[_NAMES], {GROUPS.index(group) for group in groups})
    drawings = [
        _Drawing(name, code, labels[code], content)
        for name, style in chosen.items()
        for code, content in sorted(style.read(archives[style.package], labels).items())
    ]
    meta: dict[str, Any] = {
        "emoji_groups": [group for group in GROUPS if group in groups],
        "emoji_styles": list(chosen),
        "packages": {package.spec: package.sha256 for package in archives},
        "rasteriser": f"resvg-py {version('resvg-py')}, {RASTER_SIZE} px",
    }
    return Intake("the emoji recipe", len(drawings), _rendered(drawings), meta)


def obtainable(styles: Sequence[str], cache: Path) -> bool:
    """Whether everything that the styles need is in the cache, or npm is there to fetch it."""
    return all(npm.obtainable(package, cache) for package in _packages(styles))


def _chosen(styles: Sequence[str]) -> dict[str, Style]:
    return {name: style for name, style in STYLES.items() if name in styles}


def _packages(styles: Sequence[str]) -> list[Package]:
    return [_NAMES, *(style.package for style in _chosen(styles).values())]


def _rendered(drawings: Iterable[_Drawing]) -> Iterator[Candidate | Quarantined]:
    from resvg_py import svg_to_bytes

    for drawing in drawings:
        source = f"{drawing.style}/{drawing.code}"
        content = drawing.content
        try:
            if isinstance(content, str):
                # Emoji hold no text; without the fonts of the machine no machine can differ.
                content = svg_to_bytes(
                    svg_string=content, width=RASTER_SIZE, height=RASTER_SIZE, skip_system_fonts=True
                )
            picture, conversion = open_rgb(bytes(content), _MAX_MEGAPIXELS)
        except (Unreadable, ValueError) as error:
            yield Quarantined(source, str(error))
            continue
        caption = f"{drawing.label}, {drawing.style} style"
        terms = STYLES[drawing.style].license
        yield Candidate(picture, (caption,), source, drawing.style, terms, conversion=conversion)


def _labels(archive: Path, groups: set[int]) -> dict[str, str]:
    """Names of the emoji of some groups, by code; variants by skin tone are left out."""
    data = json.loads(_members(archive, lambda name: name == "en/data.json")["en/data.json"])
    return {code_of(emoji["hexcode"]): str(emoji["label"]) for emoji in data if emoji.get("group") in groups}


def _icon_set(archive: Path, labels: Mapping[str, str]) -> dict[str, str | bytes]:
    files = _members(archive, lambda name: name in ("icons.json", "chars.json"))
    icons: dict[str, Any] = json.loads(files["icons.json"])
    names: dict[str, str] = json.loads(files["chars.json"])
    found: dict[str, str | bytes] = {}
    for code_points, name in sorted(names.items()):
        code = code_of(code_points)
        document = svg(icons, name, RASTER_SIZE) if code in labels else None
        if document is not None:
            found.setdefault(code, document)
    return found


def _webp_folder(archive: Path, labels: Mapping[str, str]) -> dict[str, str | bytes]:
    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return path.suffix == ".webp" and code_of(path.stem) in labels

    found: dict[str, str | bytes] = {}
    for name, content in sorted(_members(archive, wanted).items()):
        found.setdefault(code_of(PurePosixPath(name).stem), content)
    return found


def _members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Files of an npm archive by their path in the package, read into memory: nothing is unpacked to disk."""
    found = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            file = tar.extractfile(member) if member.isfile() and wanted(name) else None
            if file is not None:
                found[name] = file.read()
    return found


STYLES: Mapping[str, Style] = {
    "noto": Style(
        Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        "Apache-2.0",
        _icon_set,
    ),
    "twemoji": Style(
        Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        "CC-BY-4.0",
        _icon_set,
    ),
    "openmoji": Style(
        Package("@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
        "CC-BY-SA-4.0",
        _icon_set,
    ),
    "fluent-flat": Style(
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        "MIT",
        _icon_set,
    ),
    "fluent-3d": Style(
        Package(
            "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
        ),
        "MIT",
        _webp_folder,
    ),
}
"""The styles by name; what `params.Style` may be."""
