"""How a run is shown while it goes on: a line for whatever becomes of a task, and where the run is altogether."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from unsee.platform.kubeflow import Run, Task
from unsee.progress import SECONDS_BETWEEN_LINES, console

_FINISHED = {"SUCCEEDED", "SKIPPED"}
_UNTOLD = {"PENDING", "RUNTIME_STATE_UNSPECIFIED"}

_log = logging.getLogger(__name__)


def follow(states: Iterable[Run]) -> Run:
    """Show every state of a run, and return the last one.

    Args:
        states: at least one.
    """
    told: dict[str, str] = {}
    last: Run | None = None
    with _whole() as show:
        for last in states:
            for task in last.tasks:
                if told.get(task.key) != task.state:
                    told[task.key] = task.state
                    _tell(task)
            show(summary(last))
    if last is None:
        raise ValueError("a run has no state")
    return last


def summary(run: Run) -> str:
    """Where a run is, on one line."""
    tasks = [task for task in run.tasks if not task.machinery]
    parts = [f"{run.name}: {run.state.lower()}"]
    if tasks:
        running = sum(task.state == "RUNNING" for task in tasks)
        parts.append(f"{sum(task.state in _FINISHED for task in tasks)} tasks done, {running} running")
    return ", ".join(parts)


def _tell(task: Task) -> None:
    if task.state == "FAILED":
        # A driver that fails has kept its task from being started.
        if not task.machinery or task.name.endswith("-driver"):
            _log.warning("task %s: failed", task.name)
    elif not task.machinery and task.state not in _UNTOLD:
        _log.info("task %s: %s", task.name, task.state.lower())


@contextlib.contextmanager
def _whole() -> Iterator[Callable[[str], None]]:
    """Shows one line that changes on a terminal, and a line once a minute anywhere else."""
    shown = console()
    if not _log.isEnabledFor(logging.INFO):
        yield lambda text: None
    elif shown.is_terminal and not shown.is_dumb_terminal:
        from rich.markup import escape

        with shown.status("") as status:
            yield lambda text: status.update(escape(text))
    else:
        next_line = time.monotonic()

        def show(text: str) -> None:
            nonlocal next_line
            if time.monotonic() >= next_line:
                _log.info("%s", text)
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES

        yield show
