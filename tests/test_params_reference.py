"""docs/reference/params.md says what params.py and params.yaml say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from unsee.params import default_values

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "params_reference.py"
PAGE = ROOT / "docs" / "reference" / "params.md"


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    copy = tmp_path / "scripts" / SCRIPT.name
    copy.write_text(SCRIPT.read_text())
    check = [sys.executable, str(copy), "--check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    subprocess.run([sys.executable, str(copy)], check=True)
    page = tmp_path / "docs" / "reference" / "params.md"
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    page.write_text(page.read_text().replace("integer", "number", 1))
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make docs" in done.stderr


def test_every_key_has_its_line() -> None:
    sections = PAGE.read_text().split("\n## ")[1:]
    tables = {section.splitlines()[0]: section for section in sections}
    for name, value in default_values().items():
        if isinstance(value, dict):
            assert all(f"| `{key}` |" in tables[name] for key in value), name
        else:
            assert f"| `{name}` |" in tables["Top level"]
