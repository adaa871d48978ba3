"""Imports point downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unsee"

FOUNDATIONS = {
    "artifacts",
    "cache",
    "credentials",
    "errors",
    "params",
    "processors",
    "progress",
    "termination",
    "versions",
}
BELOW = {
    "records": set(),
    "models": {"records"},
    "attribution": {"models", "records"},
    "baselines": {"models", "records"},
    "evaluation": {"models", "records"},
    "retraining": {"models", "records"},
    "report": set(),
    "platform": {"records"},
    "steps": {"records", "models", "attribution", "baselines", "evaluation", "retraining", "report", "platform"},
    "doctor": set(),
    "cli": {"steps", "platform", "doctor", "models", "report", "records"},
    "__main__": {"cli"},
}
LAUNCHERS = "retraining/launchers"


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] if node.module != "unsee" else [f"unsee.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("unsee.")}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    imported = imported_parts(path) - {part, "__version__"}
    if part == "__init__":
        assert imported == set()
    elif part in FOUNDATIONS:
        assert imported <= FOUNDATIONS, f"a foundation imports {imported - FOUNDATIONS}"
    else:
        allowed = BELOW[part] | FOUNDATIONS
        if str(path.relative_to(SOURCE)).startswith(LAUNCHERS):
            allowed |= {"platform"}
        assert imported <= allowed, f"{part} imports {imported - allowed}"


def test_every_part_has_its_place() -> None:
    parts = {part_of(path) for path in SOURCE.rglob("*.py")}
    assert parts - FOUNDATIONS - set(BELOW) == {"__init__"}
