"""Progress: bars on a terminal, a few lines elsewhere, next to nothing in cost."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from unsee import progress
from unsee.progress import Progress


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(progress, "console", lambda: Console(file=io.StringIO(), force_terminal=False))
    with caplog.at_level(logging.INFO, logger="unsee.progress"):
        yield caplog


@pytest.fixture
def terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", lambda: shown)
    monkeypatch.setenv("TERM", "xterm")
    with caplog.at_level(logging.INFO, logger="unsee.progress"):
        yield screen


def test_lines_say_how_far_how_fast_and_how_long(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with Progress("Scoring", total=1000, unit="record") as scoring:
        for _ in range(1000):
            clock.now += 0.125
            scoring.advance()
    assert lines.messages[0] == "Scoring: 80/1000 (8%), 8.0 record/s, 1 min 55 s left"
    assert lines.messages[-1] == "Scoring: 1000/1000 (100%) in 2 min 05 s, 8.0 record/s"
    assert len(lines.messages) == 13


def test_a_slow_unit_is_told_in_seconds_per_unit(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with Progress("Unlearning", total=4, unit="query") as unlearning:
        clock.now += 20
        unlearning.advance()
    assert lines.messages[0] == "Unlearning: 1/4 (25%), 20.0 s/query, 1 min 00 s left"


def test_a_long_run_is_not_a_wall_of_lines(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with Progress("Training", total=100_000, unit="step") as training:
        for _ in range(10_000):
            clock.now += 1
            training.advance(10)
    assert len(lines.messages) < 180


def test_short_work_leaves_no_line(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with Progress("Blinking", total=5) as blinking:
        for _ in range(5):
            clock.now += 0.1
            blinking.advance()
    assert lines.messages == []


def test_without_a_total_lines_still_come(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with Progress("Reading", unit="file") as reading:
        clock.now += 11
        reading.advance()
    assert lines.messages[0] == "Reading: 1, 11.0 s/file"


def test_an_error_is_not_reported_as_the_end(lines: pytest.LogCaptureFixture, clock: Clock) -> None:
    with pytest.raises(ValueError, match="broken"), Progress("Encoding", total=2) as encoding:
        encoding.advance()
        clock.now += 5
        raise ValueError("broken")
    assert lines.messages == ["Encoding: 1/2 (50%), stopped after 5.0 s, 5.0 s/it"]


def test_a_library_user_who_set_up_no_logging_sees_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import time\nfrom unsee.progress import Progress\n"
        "with Progress('Hidden', total=2) as hidden:\n    time.sleep(1.2)\n    hidden.advance(2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@given(st.lists(st.integers(0, 50), max_size=30))
def test_nothing_is_lost_or_made_up(counts: list[int]) -> None:
    with Progress("Counting", total=sum(counts)) as counting:
        for count in counts:
            counting.advance(count)
    assert counting.done == sum(counts)


def test_bars_may_be_nested_and_end_in_any_order(terminal: io.StringIO) -> None:
    outer = Progress("[red]outer", total=3).__enter__()
    for _ in range(3):
        with Progress("inner", total=4) as inner:
            for _ in range(4):
                time.sleep(0.002)
                inner.advance()
        outer.advance()
    late = Progress("late", total=1).__enter__()
    outer.__exit__(None, None, None)
    late.advance()
    late.__exit__(None, None, None)
    text = terminal.getvalue()
    assert "[red]outer" in text
    assert "inner" in text
    assert "3/3" in text
    assert "1/1" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is hidden once and shown again once"


def test_after_an_error_the_terminal_is_given_back(terminal: io.StringIO) -> None:
    with pytest.raises(KeyboardInterrupt), Progress("Interrupted", total=2):
        raise KeyboardInterrupt
    assert terminal.getvalue().count("\x1b[?25h") == 1
    with Progress("Again", total=1) as again:
        again.advance()
    assert "1/1" in terminal.getvalue()


def test_counting_costs_next_to_nothing(terminal: io.StringIO) -> None:
    calls = 50_000
    with Progress("Fast", total=calls) as fast:
        start = time.perf_counter()
        for _ in range(calls):
            fast.advance()
        seconds = time.perf_counter() - start
    assert seconds / calls < 20e-6
    assert terminal.getvalue().count("Fast") < 50 * (1 + seconds)


def test_a_real_terminal_gets_a_bar_and_a_pipe_does_not() -> None:
    code = (
        "import logging, time\nfrom unsee.progress import Progress\n"
        "logging.basicConfig(level=logging.INFO)\nwith Progress('Working', total=6) as working:\n"
        "    for _ in range(6):\n        time.sleep(0.2)\n        working.advance()"
    )
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
        seen = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "━" in seen
    assert "6/6" in seen
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stderr.startswith("INFO:unsee.progress:Working: 6/6 (100%) in 1.")
    assert piped.stdout == ""
