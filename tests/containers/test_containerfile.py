"""The Containerfile keeps hadolint's rules and ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONTAINERFILE = ROOT / "containers" / "Containerfile"


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of every instruction, its lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [(line.split()[0].upper(), " ".join(line.split()[1:])) for line in joined if line.strip()]


def final_stage(text: str) -> list[tuple[str, str]]:
    """Instructions of the last stage and of the stages that it comes from."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, arguments in instructions(text):
        if instruction == "FROM":
            parent, _, name = arguments.partition(" AS ")
            stages[name] = list(stages.get(parent, []))
        elif name:
            stages[name].append((instruction, arguments))
    return stages[name]


TEXT = CONTAINERFILE.read_text()


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    command = [program, "--no-color", "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    done = lint(CONTAINERFILE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("USER 10001", "USER 0", "DL3002"),
        ("--no-install-recommends ca-certificates", "ca-certificates", "DL3015"),
        ("hadolint ignore=DL3008", "nothing is ignored", "DL3008"),
    ],
)
def test_hadolint_sees_what_would_be_wrong(tmp_path: Path, old: str, new: str, rule: str) -> None:
    assert old in TEXT
    path = tmp_path / "Containerfile"
    path.write_text(TEXT.replace(old, new))
    done = lint(path)
    assert done.returncode == 1
    assert rule in done.stdout


def test_a_rule_is_broken_only_for_a_reason() -> None:
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            assert lines[number - 1].startswith("# "), line


def test_base_images_are_pinned() -> None:
    names = [arguments.partition(" AS ")[2] for name, arguments in instructions(TEXT) if name == "FROM"]
    parents = [arguments.partition(" AS ")[0] for name, arguments in instructions(TEXT) if name == "FROM"]
    assert set(parents) - set(names) == {"${BASE_IMAGE}"}
    defaults = [arguments for name, arguments in instructions(TEXT) if name == "ARG" and "BASE_IMAGE" in arguments]
    assert len(defaults) == 1
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+\.\d+-slim-[a-z]+", defaults[0])
    assert ":latest" not in TEXT


def test_the_image_runs_as_a_user_that_kubernetes_can_tell_from_root() -> None:
    users = [arguments for name, arguments in final_stage(TEXT) if name == "USER"]
    assert users[-1] == "10001"


def test_the_last_stage_is_the_image_and_the_test_stage_is_not_in_it() -> None:
    stages = [arguments.partition(" AS ")[2] for name, arguments in instructions(TEXT) if name == "FROM"]
    assert stages[-1] == "runtime"
    assert "test" in stages
    assert not any("pytest" in arguments for _, arguments in final_stage(TEXT))


def test_the_image_says_what_it_is() -> None:
    (labels,) = [arguments for name, arguments in final_stage(TEXT) if name == "LABEL"]
    for label in ("title", "description", "licenses", "source", "version", "revision"):
        assert re.search(rf'org\.opencontainers\.image\.{label}="[^"]+"', labels), label
    assert 'version="${VERSION}"' in labels
    assert 'revision="${REVISION}"' in labels


def test_kubeflow_gives_the_command() -> None:
    assert not {"ENTRYPOINT", "CMD"} & {name for name, _ in instructions(TEXT)}


def test_nothing_is_added_from_an_address_and_no_settings_of_the_builder_are_copied() -> None:
    assert "ADD" not in {name for name, _ in instructions(TEXT)}
    copied = [arguments for name, arguments in instructions(TEXT) if name == "COPY"]
    assert not any("pip.conf" in arguments or "certs" in arguments for arguments in copied)
    packages = [arguments for name, arguments in instructions(TEXT) if name == "RUN" and " -m pip " in arguments]
    assert packages
    assert all("--mount=type=secret,id=pip_conf" in run or "--no-index" in run for run in packages)


def test_kfp_is_installed_in_the_pinned_version_and_without_its_dependencies() -> None:
    assert re.search(r"^kfp==\d+\.\d+\.\d+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    installs = [part for name, arguments in instructions(TEXT) if name == "RUN" for part in arguments.split("&&")]
    (install,) = [part for part in installs if part.split()[-1] == "kfp"]
    assert "--no-deps" in install
    assert "--constraint requirements.lock" in install


def test_what_is_copied_reaches_the_builder_and_nothing_else_does() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copies = [arguments for name, arguments in instructions(TEXT) if name == "COPY" and "--from" not in arguments]
    sources = {word for copy in copies for word in copy.split()[:-1] if not word.startswith("--")}
    assert "*" in lines
    assert admitted == sources
