"""Write docs/reference/params.md from `unsee.params`; with `--check`, only say whether the file is up to date."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unsee.params import Params, default_values

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "params.md"

INTRODUCTION = """\
# Params

<!-- Generated from src/unsee/params.py and src/unsee/params.yaml by `make docs`: do not edit. -->

Every setting of an audit, with its default. A file of your own holds only the keys that differ,

```yaml
queries:
  prompts: ["a red apple on a table"]
unlearn:
  loss_ratio: 2.0
```

and is given with `--params FILE`. Single keys are set on the command line, `--set unlearn.loss_ratio=2`, which goes
before the file. Unknown keys and wrong types are errors. `unsee params` prints what comes out.
"""

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", NoneType: "null"}
_BOUNDS = {
    annotated_types.Ge: ("ge", "≥ {}"),
    annotated_types.Gt: ("gt", "> {}"),
    annotated_types.Le: ("le", "≤ {}"),
    annotated_types.Lt: ("lt", "< {}"),
    annotated_types.MultipleOf: ("multiple_of", "a multiple of {}"),
    annotated_types.MinLen: ("min_length", "at least {} of them"),
}


def page() -> str:
    """The whole page."""
    defaults = default_values()
    plain: dict[str, FieldInfo] = {}
    sections: dict[str, type[BaseModel]] = {}
    for name, field in Params.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[name] = field.annotation
        else:
            plain[name] = field
    parts = [INTRODUCTION, "## Top level\n", *_table(plain, defaults)]
    for name, section in sections.items():
        parts += [f"\n## {name}\n", f"{section.__doc__}\n", *_table(section.model_fields, defaults[name])]
    return "\n".join(parts) + "\n"


def _table(fields: Mapping[str, FieldInfo], defaults: Mapping[str, Any]) -> list[str]:
    rows = ["| key | holds | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = json.dumps(defaults[name], ensure_ascii=False)
        rows.append(f"| `{name}` | {_holds(field)} | `{_cell(default)}` | {_cell(field.description or '')} |")
    return rows


def _holds(field: FieldInfo) -> str:
    return ", ".join([_type(field.annotation), *_bounds(field.metadata)])


def _bounds(constraints: Iterable[Any]) -> list[str]:
    found = []
    for constraint in constraints:
        attribute, words = _BOUNDS[type(constraint)]
        found.append(words.format(getattr(constraint, attribute)))
    return found


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words = " ".join([_type(arguments[0]), *_bounds(arguments[1:])])
    elif origin is Literal:
        words = " or ".join(f"`{value}`" for value in arguments)
    elif origin is UnionType:
        words = " or ".join(_type(part) for part in arguments)
    elif origin is list:
        words = f"list of {_type(arguments[0])}"
    elif origin is dict:
        words = f"mapping of {' to '.join(_type(part) for part in arguments)}"
    elif issubclass(annotation, BaseModel):
        words = f"mapping with {', '.join(f'`{name}`' for name in annotation.model_fields)}"
    else:
        words = _NAMES[annotation]
    return words


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write or check the page."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE} is out of date: run `make docs`")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
