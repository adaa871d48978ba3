"""Build the container images: `python scripts/containers.py image cpu`; `--help` tells the rest.

The build uses pip as this machine does: its index, certificates and folders of wheels go in as build secrets, folders
over a server on the loopback interface, so that nothing of them is in the image or in a file of the repository.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
CONTAINERFILE = ROOT / "containers" / "Containerfile"
NAME = "ghcr.io/unsee-project/unsee-python-{}"
ACCELERATORS = ("cpu", "gpu")
TARGETS = ("runtime", "test")

LOCAL_BASE = "unsee-base:bookworm"
SUITE = "bookworm"  # the Debian release of the default base image
PACKAGES = ("python3", "python3-venv", "ca-certificates")

_LAST_WITHOUT_BUILDX = 22  # Docker's own client builds with BuildKit up to this version, newer ones need buildx
_CARRIED = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)


def main() -> None:
    """Make what was asked for; the last line printed is its tag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    base = verbs.add_parser("base", help="make a base image from Debian's packages: as root, with debootstrap")
    base.add_argument("--tag", default=LOCAL_BASE)
    image = verbs.add_parser("image", help="build an image")
    image.add_argument("accelerator", choices=ACCELERATORS)
    image.add_argument("--tag", help=f"default: {NAME.format('ACCELERATOR')}:VERSION")
    image.add_argument("--target", choices=TARGETS, default="runtime", help="`test` runs tests while it is built")
    image.add_argument("--torch-index", metavar="URL", help="package index to take torch from")
    bases = image.add_mutually_exclusive_group()
    bases.add_argument("--base", metavar="IMAGE", help="base image, with python3 (3.11 or newer) and apt")
    bases.add_argument("--local-base", action="store_true", help=f"use {LOCAL_BASE}, and make it if it is not there")
    asked = parser.parse_args()

    docker = docker_client()
    if asked.verb == "base":
        make_base(docker, asked.tag)
        tag = asked.tag
    else:
        if asked.local_base and not has_image(docker, LOCAL_BASE):
            make_base(docker, LOCAL_BASE)
        tag = asked.tag or f"{NAME.format(asked.accelerator)}:{version()}"
        build(
            docker,
            asked.accelerator,
            tag,
            target=asked.target,
            base=LOCAL_BASE if asked.local_base else asked.base,
            torch_index=asked.torch_index,
        )
    sys.stdout.write(f"{tag}\n")


def docker_client() -> str:
    """The first `docker` on the PATH that can build with BuildKit.

    A client without its buildx plugin cannot, and may hide one that can.
    """
    found = [shutil.which("docker", path=place) for place in os.environ.get("PATH", "").split(os.pathsep)]
    clients = [client for client in found if client]
    for client in clients:
        version = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
        number = re.search(r"version (\d+)", version)
        if number and int(number[1]) <= _LAST_WITHOUT_BUILDX:
            return client
        if subprocess.run([client, "buildx", "version"], capture_output=True, check=False).returncode == 0:
            return client
    sys.exit("docker's buildx plugin is missing" if clients else "docker is not installed")


def has_image(docker: str, tag: str) -> bool:
    """Whether the engine has an image of that name."""
    return subprocess.run([docker, "image", "inspect", tag], capture_output=True, check=False).returncode == 0


def make_base(docker: str, tag: str) -> None:
    """Make a Debian with Python and nothing else, and import it as `tag`."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        sys.exit("a local base needs debootstrap, and root to run it")
    with tempfile.TemporaryDirectory(prefix="unsee-base-") as folder:
        packages = f"--include={','.join(PACKAGES)}"
        _run(["debootstrap", "--variant=minbase", packages, SUITE, folder], quiet=True)
        without = [f"--exclude=./{path}/*" for path in ("proc", "sys", "var/cache/apt", "var/lib/apt/lists")]
        with subprocess.Popen(["tar", "--create", *without, "--directory", folder, "."], stdout=subprocess.PIPE) as tar:
            _run([docker, "import", "-", tag], stdin=tar.stdout)
        if tar.returncode:
            sys.exit(f"tar failed ({tar.returncode})")


def build(
    docker: str,
    accelerator: str,
    tag: str,
    *,
    target: str = "runtime",
    base: str | None = None,
    torch_index: str | None = None,
) -> None:
    """Build one image from the working tree. The output of the build goes to standard error."""
    arguments = {
        "ACCELERATOR": accelerator,
        "BASE_IMAGE": base,
        "TORCH_INDEX_URL": torch_index,
        "VERSION": version(),
        "REVISION": revision(),
    }
    given = [f"--build-arg={name}={value}" for name, value in arguments.items() if value]
    command = [docker, "build", "--network=host", "--progress=plain", f"--file={CONTAINERFILE}", f"--target={target}"]
    with _secrets() as secrets:
        _run([*command, f"--tag={tag}", *given, *secrets, str(ROOT)])


def version() -> str:
    """The version of unsee in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def revision() -> str:
    """The commit of the working tree, marked where files differ; empty outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def pip_settings() -> dict[str, str]:
    """What this machine's pip is told by its configuration files and environment; the environment wins."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return parse_settings(listed)


def parse_settings(listed: str) -> dict[str, str]:
    """The lines `global.key='value'` and `:env:.key='value'` of `pip config list`, by key."""
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in {"global", "install", ":env:"} and value:
            settings[key] = str(ast.literal_eval(value))
    return settings


def secret_files(settings: dict[str, str], server: FolderServer) -> dict[str, str]:
    """The build's secrets by name: a pip.conf in which local folders are addresses on `server`, and certificates."""
    lines = ["[global]", "disable-pip-version-check = true"]
    for key in _CARRIED:
        if key in settings:
            lines.append(f"{key} = {' '.join(server.address(place) for place in settings[key].split())}")
    secrets = {}
    certificates = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificates:
        lines.append("cert = /run/secrets/ca_bundle")
        secrets["ca_bundle"] = Path(certificates).read_text(encoding="utf-8")
    return {"pip_conf": "\n".join([*lines, ""]), **secrets}


@contextlib.contextmanager
def _secrets() -> Iterator[list[str]]:
    """The arguments that hand the secrets to the build; they are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="unsee-build-") as folder, FolderServer() as server:
        arguments = []
        for name, text in secret_files(pip_settings(), server).items():
            path = Path(folder) / name
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
            arguments.append(f"--secret=id={name},src={path}")
        yield arguments


class FolderServer:
    """Serves folders of this machine to a build that uses the machine's network, on the loopback interface only."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def __enter__(self) -> FolderServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def address(self, place: str) -> str:
        """Where pip finds, from inside the build, what it finds at `place` here; anything but a local folder stays."""
        is_index = place.startswith("file:")
        folder = Path(unquote(urlsplit(place).path)) if is_index else Path(place)
        if not folder.is_absolute() or not folder.is_dir():
            return place
        # The pages of an index lead to files beside it, so its parent is served.
        self._folders.append(folder.parent if is_index else folder)
        number, port = len(self._folders) - 1, self._server.server_address[1]
        return f"http://127.0.0.1:{port}/{number}/{folder.name if is_index else ''}"

    def _handler(self) -> type[http.server.SimpleHTTPRequestHandler]:
        folders = self._folders

        class Handler(http.server.SimpleHTTPRequestHandler):
            def translate_path(self, path: str) -> str:
                number, _, rest = path.lstrip("/").partition("/")
                if not number.isdigit() or int(number) >= len(folders):
                    return f"{os.devnull}/"  # a folder that is none: not found
                self.directory = str(folders[int(number)])
                return super().translate_path(rest)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        return Handler


def _run(command: Sequence[str], *, quiet: bool = False, stdin: Any = None) -> None:
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    output = subprocess.DEVNULL if quiet else sys.stderr
    code = subprocess.run(command, env=environment, stdin=stdin, stdout=output, check=False).returncode
    if code:
        sys.exit(f"{Path(command[0]).name} {command[1]} failed ({code})")


if __name__ == "__main__":
    main()
