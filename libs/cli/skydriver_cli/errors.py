"""The one kind of failure that a person is told about without a traceback."""

from __future__ import annotations


class Problem(Exception):
    """Something the user can act on: `what` is wrong, and `advice` what to do next; both one line."""

    def __init__(self, what: str, advice: str = "", *, exit_code: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.what}. {self.advice}" if self.advice else self.what
