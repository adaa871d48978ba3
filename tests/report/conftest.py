"""Report content to start from: every test changes what it is about."""

from __future__ import annotations

import pytest

from report_content import Build


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build
