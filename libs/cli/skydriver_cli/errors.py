"""The one kind of failure that is reported to a person in one line, without a traceback."""

from __future__ import annotations


class CliError(Exception):
    """Something the user can act on. what: what happened. advice: what to do next. Both are one line."""

    def __init__(self, what: str, advice: str = "", *, exit_code: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.what}. {self.advice}" if self.advice else self.what
