"""Calls that may fail: retried where that helps, noted, and given up in time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.platform import guard as module
from unsee.platform.guard import FAILURES_IN_A_ROW, Guard, one_line


class Refused(Exception):
    """A server's answer with an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status

    def get_http_status_code(self) -> int:
        return self.status


class Flaky:
    """Fails as often as told, then returns 7."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return 7


def test_what_works_in_the_end_is_no_problem() -> None:
    guard, call = Guard(pause=0), Flaky(2, ConnectionError("reset"))
    assert guard("log", call) == 7
    assert call.calls == 3
    assert guard.problems == []


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (404, 1), (403, 1), (429, 3), (500, 3), (503, 3)])
def test_a_no_is_taken_for_an_answer(status: int, calls: int) -> None:
    guard, call = Guard(pause=0), Flaky(99, Refused(status))
    assert guard("log the params", call) is None
    assert call.calls == calls
    assert guard.problems == [f"log the params: status {status}"]


def test_after_failures_in_a_row_nothing_is_tried_any_more() -> None:
    guard = Guard(pause=0)
    calls = [Flaky(99, OSError("down")) for _ in range(FAILURES_IN_A_ROW + 2)]
    assert [guard(f"call {number}", call) for number, call in enumerate(calls)] == [None] * len(calls)
    assert [call.calls for call in calls] == [3, 1, 1, 0, 0]
    assert guard.given_up
    assert guard.problems[-1] == "no further attempts were made"
    assert len(guard.problems) == FAILURES_IN_A_ROW + 1


def test_a_success_in_between_starts_the_count_anew() -> None:
    guard = Guard(pause=0)
    for _ in range(FAILURES_IN_A_ROW):
        guard("fails", Flaky(99, OSError("down")))
        if not guard.given_up:
            guard("works", Flaky(0, OSError()))
    assert not guard.given_up


def test_time_lost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_LOST", 0.2)
    guard = Guard(pause=0)

    def hang() -> None:
        time.sleep(0.15)
        raise TimeoutError("no answer")

    start = time.monotonic()
    for _ in range(50):
        guard("log", hang)
    assert time.monotonic() - start < 1
    assert guard.given_up


def test_interrupts_pass() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard()("log", stop)


@given(st.text())
def test_an_error_is_one_short_line(text: str) -> None:
    line = one_line(ValueError(text))
    assert 0 < len(line) <= 300
    assert len(line.splitlines()) == 1
