"""What the command line tells while it works, all of it on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from unsee.progress import console

_NOISY = ("diffusers", "transformers", "huggingface_hub", "mlflow", "alembic", "dvc", "py.warnings")
_QUIET_LIBRARIES = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_ALWAYS = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "DVC_NO_ANALYTICS": "1"}


def set_up_logging(*, verbose: bool, quiet: bool) -> Callable[[], None]:
    """Show log records: coloured on a terminal, `time level message` lines elsewhere.

    Args:
        verbose: details of unsee, and what the libraries have to say.
        quiet: warnings and errors only; no progress.

    Returns:
        What takes it back.
    """
    for name, value in (_ALWAYS if verbose else {**_ALWAYS, **_QUIET_LIBRARIES}).items():
        os.environ.setdefault(name, value)
    handler = _handler()
    root, ours = logging.getLogger(), logging.getLogger("unsee")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    logging.captureWarnings(True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.ERROR)

    def undo() -> None:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        ours.setLevel(logging.NOTSET)

    return undo


def _handler() -> logging.Handler:
    shown = console()
    if shown.is_terminal and not shown.is_dumb_terminal:
        from rich.logging import RichHandler

        return RichHandler(console=shown, show_path=False, log_time_format="[%H:%M:%S]", omit_repeated_times=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    return handler
