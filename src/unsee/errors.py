"""The errors that a person can act on.

Every error says three things: where (a file and, if there is one, a field in it), what is wrong, and what to do.
The command line turns an `UnseeError` into one message and exit code 2; anything else is a bug and keeps its trace.
"""

from __future__ import annotations

from pathlib import Path


class UnseeError(Exception):
    """Something outside the program is wrong: an input, an environment, a disk.

    Args:
        problem: what is wrong, one sentence.
        file: the file or folder concerned, if any.
        field: the key, column or part inside `file`, if any.
        remedy: what the reader can do about it.
    """

    def __init__(
        self, problem: str, *, file: str | Path | None = None, field: str | None = None, remedy: str = ""
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.field = field
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.file or ""
        if self.field is not None:
            where = f"{where}: {self.field}" if where else self.field
        text = f"{where}: {self.problem}" if where else self.problem
        return f"{text} {self.remedy}" if self.remedy else text


class InputError(UnseeError):
    """A file that a person gave (data, model, params, prompts) cannot be used."""


class ArtifactError(UnseeError):
    """An artifact folder is missing, half written, corrupt, or of another kind or schema version."""


class EnvironmentProblem(UnseeError):
    """A program, package, disk or server that the work needs is missing or full."""


class QueryFailure(UnseeError):
    """One query cannot be attributed (a non-finite gradient, say); the other queries go on."""
