"""Write components/<name>/README.md from the docstrings; `--check` only says whether they are up to date."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import docstring_parser
from kfp.dsl.python_component import PythonComponent

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "components"

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def names() -> list[str]:
    """Every component."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def component(name: str) -> PythonComponent:
    """A component by its name, which is that of its folder, its function and its task."""
    found: PythonComponent = getattr(importlib.import_module(f"components.{name}.component"), name)
    return found


def page(name: str) -> str:
    """The README of a component."""
    found = component(name)
    spec = found.component_spec
    # Kubeflow reads the descriptions of inputs only.
    told = {item.arg_name: item.description for item in docstring_parser.parse(found.python_func.__doc__ or "").params}
    first, _, rest = (spec.description or "").partition("\n")
    lines = [
        f"# {name}",
        "",
        "<!-- Generated from component.py by `make docs`: do not edit. -->",
        "",
        first.strip(),
        *(["", " ".join(rest.split())] if rest.strip() else []),
    ]
    for title, table in (("Inputs", spec.inputs or {}), ("Outputs", spec.outputs or {})):
        if table:
            lines += ["", f"## {title}", "", "| name | type | meaning |", "|---|---|---|"]
            lines += [f"| `{key}` | {_type(item)} | {_meaning(item, told.get(key))} |" for key, item in table.items()]
    return "\n".join(lines) + "\n"


def _type(item: object) -> str:
    name = str(getattr(item, "type", "")).removeprefix("system.").partition("@")[0]
    return f"list of {name}" if getattr(item, "is_artifact_list", False) else name


def _meaning(item: object, told: str | None) -> str:
    text = " ".join((told or "").split()).replace("|", "\\|")
    optional = " Optional." if getattr(item, "optional", False) else ""
    return f"{text}{optional}".strip()


def stale() -> list[str]:
    """Components whose README is not up to date."""
    return [name for name in names() if _read(name) != page(name)]


def _read(name: str) -> str | None:
    path = FOLDER / name / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main() -> None:
    """Write, or check."""
    if "--check" in sys.argv[1:]:
        old = stale()
        if old:
            sys.exit(f"not up to date, run `make docs`: {', '.join(old)}")
        return
    for name in names():
        (FOLDER / name / "README.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
