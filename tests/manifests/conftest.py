"""Every overlay, and every component, rendered once per process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.objects import Object
from manifests.rendering import copy_manifests, folder_of, render


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_manifests(tmp_path_factory.mktemp("manifests"))


@pytest.fixture(scope="session")
def rendered(copied: Path) -> Callable[[str], list[Object]]:
    """The objects of a rendering by name; each call hands out a copy that may be changed."""
    kept: dict[str, list[Object]] = {}

    def of(name: str) -> list[Object]:
        if name not in kept:
            kept[name] = render(folder_of(copied, name))
        return copy.deepcopy(kept[name])

    return of
