"""An object store that is a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from unsee.artifacts import file_sha256
from unsee.cache import SETTING, Folder, check_digest, stated_digest, whole_file
from unsee.platform.object_store import Stored


class LocalStore(Folder):
    """`ObjectStore` over a folder; what it knows of an object's digest is what the key states."""

    def stat(self, key: str) -> Stored | None:
        """See `ObjectStore`."""
        path = self.path(key)
        return Stored(key, path.stat().st_size, stated_digest(key)) if path.is_file() else None

    def put_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`; the disk being full or not writable is an `EnvironmentProblem`."""
        with whole_file(self.path(key), SETTING) as part:
            shutil.copyfile(path, part)

    def get_file(self, key: str, path: Path) -> bool:
        """See `ObjectStore`."""
        source = self.path(key)
        if not source.is_file():
            return False
        with whole_file(path) as part:
            shutil.copyfile(source, part)
            check_digest(self.uri, key, file_sha256(part))
        return True
