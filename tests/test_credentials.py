"""Addresses are told without the passwords and tokens in them."""

from __future__ import annotations

import pytest

from unsee.credentials import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("https://secret@example.org:8443/r", "https://example.org:8443/r"),
        ("GET https://me:p@ss@host/a?b=c failed", "GET https://host/a?b=c failed"),
        (
            "postgresql://me:secret@db/mlflow and git+ssh://git@forge/x.git",
            "postgresql://db/mlflow and git+ssh://forge/x.git",
        ),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("https://example.org/r@v1", "https://example.org/r@v1"),
        ("git@example.org:team/r.git", "git@example.org:team/r.git"),
        ("../data@home", "../data@home"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_credentials_are_taken_out_and_nothing_else(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
