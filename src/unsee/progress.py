"""How far a long loop is: a bar with rate and time left on a terminal, plain log lines anywhere else.

Bars are drawn on standard error and only where the logger of this module lets information through, so that a program
that uses unsee as a library sees nothing. Counting costs a comparison of two clocks per call; what is shown is
brought up to date a few times a second.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID

_log = logging.getLogger(__name__)

SECONDS_PER_LINE = 10.0
"""Log lines are at least this far apart,"""
SHARE_PER_LINE = 0.05
"""and by at least this share of the work,"""
SECONDS_BETWEEN_LINES = 60.0
"""unless so much time has passed."""
_SECONDS_PER_DRAWING = 0.1
_WORTH_A_LAST_LINE = 1.0


@functools.cache
def console() -> Console:
    """The console on standard error that bars and log records share, so that neither tears the other apart."""
    from rich.console import Console

    return Console(stderr=True)


class Progress:
    """Count what a loop has done, between `with` and its end; progresses may be nested and may end in any order.

    Args:
        description: what is going on, a few words.
        total: how many units there are; None where nobody knows.
        unit: what one of them is called, singular.
    """

    def __init__(self, description: str, total: int | None = None, unit: str = "it") -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self._view: _Bar | _Lines | None = None
        self._next = 0.0

    def __enter__(self) -> Progress:
        now = time.monotonic()
        if _log.isEnabledFor(logging.INFO):
            shown = console()
            self._view = _Bar(self) if shown.is_terminal and not shown.is_dumb_terminal else _Lines(self, now)
            self._next = now + self._view.period
        return self

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self.done += count
        if self._view is not None:
            now = time.monotonic()
            if now >= self._next:
                self._view.show(now)
                self._next = now + self._view.period

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close(time.monotonic(), finished=kind is None)
            self._view = None


class _Bar:
    """One line of the live display."""

    period = _SECONDS_PER_DRAWING

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._display = _display()
        self._task = self._display.open(progress)

    def show(self, now: float) -> None:
        self._display.show(self._task, self._progress.done)

    def close(self, now: float, *, finished: bool) -> None:
        self._display.close(self._task, self._progress.done)


class _Display:
    """The bars that are on the terminal; rich allows one live display, so nested progresses share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._open: set[TaskID] = set()

    def open(self, progress: Progress) -> TaskID:
        with self._lock:
            if self._bars is None:
                self._bars = _new_bars()
                self._bars.start()
            task = self._bars.add_task(progress.description, total=progress.total, unit=progress.unit)
            self._open.add(task)
            return task

    def show(self, task: TaskID, done: int) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.update(task, completed=done)

    def close(self, task: TaskID, done: int) -> None:
        with self._lock:
            if self._bars is None:
                return
            self._bars.update(task, completed=done, refresh=True)
            self._bars.stop_task(task)
            self._open.discard(task)
            # An inner loop that runs often would fill the screen: of the finished bars only the last one stays.
            for other in self._bars.task_ids:
                if other != task and other not in self._open:
                    self._bars.remove_task(other)
            if not self._open:
                self._bars.stop()
                self._bars = None


@functools.cache
def _display() -> _Display:
    return _Display()


def _new_bars() -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second, or seconds per unit."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else _rate(speed, task.fields["unit"]), style="progress.data.speed")

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console(),
    )


class _Lines:
    """Log lines, few of them."""

    period = SECONDS_PER_LINE

    def __init__(self, progress: Progress, now: float) -> None:
        self._progress = progress
        self._start = now
        self._last = (now, 0)

    def show(self, now: float) -> None:
        progress, (then, before) = self._progress, self._last
        news = progress.done - before
        if progress.total and news < SHARE_PER_LINE * progress.total and now - then < SECONDS_BETWEEN_LINES:
            return
        rate = news / (now - then) if now > then else 0.0
        parts = [self._count(), _rate(rate, progress.unit)]
        if progress.total and rate > 0:
            parts.append(f"{_duration(max(progress.total - progress.done, 0) / rate)} left")
        _log.info("%s: %s", progress.description, ", ".join(parts))
        self._last = (now, progress.done)

    def close(self, now: float, *, finished: bool) -> None:
        seconds = now - self._start
        if seconds < _WORTH_A_LAST_LINE:
            return
        end = " in" if finished else ", stopped after"
        rate = _rate(self._progress.done / seconds, self._progress.unit)
        _log.info("%s: %s%s %s, %s", self._progress.description, self._count(), end, _duration(seconds), rate)

    def _count(self) -> str:
        done, total = self._progress.done, self._progress.total
        return f"{done}/{total} ({done / total:.0%})" if total else str(done)


def _rate(per_second: float, unit: str) -> str:
    if per_second >= 1:
        return f"{per_second:,.0f} {unit}/s" if per_second >= 100 else f"{per_second:.1f} {unit}/s"
    return f"{1 / per_second:.1f} s/{unit}" if per_second > 0 else f"0 {unit}/s"


def _duration(seconds: float) -> str:
    """Seconds as people say them: `8.2 s`, `45 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
