"""Keeping passwords and tokens out of what people and logs get to see."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"//[^/\s]+@")


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of every address in it."""
    return _CREDENTIALS.sub("//", text)
