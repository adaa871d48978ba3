"""Calls to a server that the work does not depend on: tried a few times, then noted, and at some point given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from unsee.credentials import without_credentials

_T = TypeVar("_T")

ATTEMPTS = 3
"""Attempts of a call; one only, while the call before it failed."""
PAUSE_SECONDS = 0.2
"""Before the second attempt; doubled before each one that follows."""
FAILURES_IN_A_ROW = 3
"""After so many calls that failed, none is tried any more;"""
SECONDS_LOST = 30.0
"""nor after so much time was spent in attempts that failed."""

_TOO_MANY_REQUESTS = 429


class Guard:
    """Runs calls that may fail, and keeps what went wrong in `problems`."""

    def __init__(self, *, attempts: int = ATTEMPTS, pause: float = PAUSE_SECONDS) -> None:
        self.problems: list[str] = []
        self.given_up = False
        self._attempts = attempts
        self._pause = pause
        self._failures = 0
        self._lost = 0.0

    def __call__(self, what: str, call: Callable[[], _T]) -> _T | None:
        """What `call` returns; None where it failed every time, or where nothing is tried any more.

        Args:
            what: what the call does, for the list of problems.
            call: may raise anything; is called again only where that can help.
        """
        if self.given_up:
            return None
        attempts = 1 if self._failures else self._attempts
        for attempt in range(attempts):
            start = time.monotonic()
            try:
                result = call()
            except Exception as error:  # whatever it is, the work goes on
                self._lost += time.monotonic() - start
                if attempt + 1 == attempts or not may_pass(error) or self._lost > SECONDS_LOST:
                    self._note(what, error)
                    return None
                time.sleep(self._pause * 2**attempt)
            else:
                self._failures = 0
                return result
        return None

    def _note(self, what: str, error: Exception) -> None:
        self.problems.append(f"{what}: {one_line(error)}")
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW or self._lost > SECONDS_LOST:
            self.given_up = True
            self.problems.append("no further attempts were made")


def one_line(error: BaseException) -> str:
    """An error as one line of at most 300 characters, without credentials."""
    text = " ".join(without_credentials(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def may_pass(error: Exception) -> bool:
    """Whether the same call may work a moment later: not where the server understood it and said no."""
    if isinstance(error, ImportError):
        return False
    status_of = getattr(error, "get_http_status_code", None)
    if status_of is None:
        return True
    status = int(status_of())
    return status >= 500 or status == _TOO_MANY_REQUESTS
