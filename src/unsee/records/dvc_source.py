"""A folder of images that DVC tracks, at any revision of a git repository.

DVC may track the folder as a whole or file by file, and files that git itself holds (the metadata, say) may lie
beside those. All are fetched into a temporary folder and checked against the md5 that DVC recorded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import posixpath
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsee.credentials import without_credentials
from unsee.errors import EnvironmentProblem, InputError, UnseeError
from unsee.records.imagefolder import leads_out

_log = logging.getLogger(__name__)
_FETCHERS = 8
_CHUNK = 1 << 20
_COMMIT = re.compile("[0-9a-f]{40}")
_FORBIDDEN = re.compile("unexpected http resp 40[37]")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class TrackedFolder:
    """A folder as it was at a revision.

    Attributes:
        folder: its files, on disk for as long as the context lasts.
        called: what messages call it: `repo@rev:path`.
        md5s: what DVC recorded, by path relative to the folder; files that git holds have none.
        meta: `repo` (without credentials), `rev` as asked, the `commit` it meant, `path`, and the folder's `md5` where
            DVC tracks it as a whole.
    """

    folder: Path
    called: str
    md5s: dict[str, str]
    meta: dict[str, str | None]


@dataclass(frozen=True)
class _File:
    """A file to fetch; `checked` tells whether `md5` is over its plain bytes (older DVC rewrote line ends first)."""

    path: str
    name: str
    md5: str | None
    checked: bool


@contextlib.contextmanager
def fetched(repo: str, rev: str, path: str) -> Iterator[TrackedFolder]:
    """Fetch the folder `path` of `repo` (a path or URL) as it was at `rev` (a commit, tag or branch).

    Raises:
        InputError: there is no such repository, revision or folder, or a file of it is missing from DVC's remote or
            damaged there.
        EnvironmentProblem: the remote cannot be used, or the disk for temporary files is full.
    """
    address = without_credentials(repo)
    called = f"{address}@{rev}:{path}"
    if leads_out(path):
        remedy = "Give it relative to the repository's root."
        raise InputError(f"'{path}' leads out of the repository.", field="data.path", remedy=remedy)
    root = posixpath.normpath(path)
    with tempfile.TemporaryDirectory(prefix="unsee-dvc-") as folder:
        target = Path(folder)
        with _told(called), _opened(repo, rev) as source:
            commit = source.repo.get_rev()
            folder_md5 = _folder_md5(source, root, called)
            files = _listed(source, root)
            _log.info("fetching %d files of %s", len(files), called)
            with ThreadPoolExecutor(_FETCHERS) as pool:
                for _ in pool.map(lambda file: _fetch(source, file, target, called), files):
                    pass
        meta = {"repo": address, "rev": rev, "commit": str(commit), "path": root, "md5": folder_md5}
        yield TrackedFolder(target, called, {f.name: f.md5 for f in files if f.md5}, meta)


def commit_of(repo: str, rev: str) -> str:
    """The commit, 40 hex digits, that a revision means now.

    Raises:
        InputError: there is no such repository or revision.
    """
    if _COMMIT.fullmatch(rev):
        return rev
    with _told(f"{without_credentials(repo)}@{rev}"), _opened(repo, rev) as source:
        return str(source.repo.get_rev())


@contextlib.contextmanager
def _opened(repo: str, rev: str) -> Iterator[Any]:
    """DVC's file system over the repository at the revision; temporary clones are removed afterwards."""
    from dvc.api import DVCFileSystem
    from dvc.repo.open_repo import clean_repos

    source = DVCFileSystem(repo, rev=rev)
    try:
        yield source
    finally:
        source.close()
        clean_repos()


@contextlib.contextmanager
def _told(called: str) -> Iterator[None]:
    """Turn what DVC, git and remotes raise into errors that a person can act on."""
    from dvc.scm import RevError, SCMError
    from dvc_data.index import DataIndexDirError

    try:
        yield
    except UnseeError:
        raise
    except RevError as error:
        remedy = "Name a commit, tag or branch of the repository."
        raise InputError("there is no such revision.", file=called, field="data.rev", remedy=remedy) from error
    except SCMError as error:
        raise _no_repository(error, called) from error
    except DataIndexDirError as error:
        raise _not_stored(called, "the folder's listing", error) from error
    except Exception as error:
        # Every remote has a client library of its own, with exceptions of its own.
        raise _unusable(error, called) from error


def _folder_md5(source: Any, root: str, called: str) -> str | None:
    try:
        info = source.info(root)
    except FileNotFoundError as error:
        remedy = "Name a folder that exists at that revision, relative to the repository's root."
        raise InputError("does not exist at that revision.", file=called, field="data.path", remedy=remedy) from error
    if info["type"] != "directory":
        remedy = "Name the folder that holds the images."
        raise InputError("is not a folder.", file=called, field="data.path", remedy=remedy)
    md5: str | None = info.get("md5")
    return md5


def _listed(source: Any, root: str) -> list[_File]:
    files = []
    for below, _, infos in source.walk(root, detail=True, on_error="raise"):
        for name, info in infos.items():
            path = posixpath.join(below, name)
            md5 = info.get("md5")
            relative = posixpath.relpath(path, root)
            files.append(_File(path, relative, md5 or info.get("md5-dos2unix"), checked=md5 is not None))
    return sorted(files, key=lambda file: file.name)


def _fetch(source: Any, file: _File, target: Path, called: str) -> None:
    # A listing in a remote is data like any other: its names may not lead out either.
    if leads_out(file.name):
        raise InputError(f"lists '{file.name}', which leads out of the folder.", file=called, remedy="Do not use it.")
    to = target / file.name
    to.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        stream = source.open(file.path, "rb")
    except FileNotFoundError as error:
        raise _not_stored(called, f"'{file.name}'", error) from error
    # Copied rather than linked, so that no file leads out of the temporary folder into DVC's cache.
    with stream, to.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if file.checked and digest.hexdigest() != file.md5:
        remedy = "Remove it from DVC's cache and remote, and `dvc push` it again."
        raise InputError(f"'{file.name}' does not match the md5 that DVC recorded.", file=called, remedy=remedy)


def _no_repository(error: BaseException, called: str) -> UnseeError:
    """What it means that a repository could not be opened: it is not there, not reached, or not open to everyone."""
    from asyncssh import Error as SshError
    from dulwich.client import HTTPUnauthorized
    from dulwich.errors import GitProtocolError, NotGitRepository
    from dvc.scm import GitAuthError
    from scmrepo.exceptions import AuthError

    causes = list(_causes(error))
    innermost = causes[-1]
    refused = (AuthError, GitAuthError, HTTPUnauthorized)
    if any(isinstance(cause, refused) or _FORBIDDEN.search(str(cause)) for cause in causes):
        remedy = "Check the credentials that git has for it: a helper, the URL, or an SSH key."
        return EnvironmentProblem("its server refuses access.", file=called, field="data.repo", remedy=remedy)
    if isinstance(innermost, OSError) and not isinstance(innermost, FileNotFoundError | NotADirectoryError):
        if innermost.errno in _FULL:
            return _unusable(innermost, called)
        remedy = "Check the address, the network and the proxy."
        problem = f"cannot be reached ({innermost.strerror or innermost})."
        return EnvironmentProblem(problem, file=called, field="data.repo", remedy=remedy)
    if isinstance(innermost, GitProtocolError | SshError) and not isinstance(innermost, NotGitRepository):
        return _unusable(innermost, called)
    remedy = "Name the path of a git repository, or a URL that git can clone."
    return InputError("there is no such repository.", file=called, field="data.repo", remedy=remedy)


def _unusable(error: BaseException, called: str) -> EnvironmentProblem:
    if isinstance(error, OSError) and error.errno in _FULL:
        problem = f"cannot be fetched: the disk for temporary files is full ({tempfile.gettempdir()})."
        return EnvironmentProblem(problem, file=called, remedy="Free some space or set TMPDIR.")
    said = " ".join(without_credentials(str(error)).split())[:300]
    problem = f"cannot be fetched ({type(error).__name__}{f': {said}' if said else ''})."
    return EnvironmentProblem(problem, file=called, remedy="Check with `dvc pull` in a clone of the repository.")


def _not_stored(called: str, what: str, error: BaseException) -> UnseeError:
    """What it means that something was found nowhere: it is not there, or the remote could not be asked."""
    for reason in _causes(error):
        if isinstance(reason, OSError) and not isinstance(reason, FileNotFoundError):
            return _unusable(reason, called)
    remedy = "Run `dvc push` where the data was added, or configure the remote that holds it."
    return InputError(f"{what} is neither in DVC's cache nor in its remote.", file=called, remedy=remedy)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
