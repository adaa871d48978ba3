"""README.md holds the numbers that were measured, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_is_up_to_date_with_the_results() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "readme_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
