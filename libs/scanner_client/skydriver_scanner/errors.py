"""What can go wrong for a scanner that reports. No text holds the token or a value of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ScannerError(Exception):
    """Base of all that this library raises on purpose, besides ``wire.MessageRefused``."""


class SettingsError(ScannerError):
    """The session can't be opened as configured; the text names each variable that is wrong."""


class SpoolFull(ScannerError):
    """A partial result was not taken: the spool is full. Nothing that was taken before is lost."""


class CallFailed(ScannerError):
    """SkyDriver did not answer, or refused, over REST. status: the last HTTP status, None if there was none.

    is_final: it will not answer otherwise another time. wait_s: how long it wants to be left alone.
    """

    def __init__(self, what: str, status: int | None, *, is_final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.status = status
        self.is_final = is_final
        self.wait_s = wait_s


class ScanStopped(ScannerError):
    """The scan was deleted or its workflow ended while something was waited for."""


@dataclass(frozen=True)
class UndeliveredMessage:
    """A message that was not delivered. path: its file in the spool, None when it was in memory only and is lost."""

    kind: str
    sequence: int
    path: Path | None
    is_final: bool = False
    why: str = ""


class NotDelivered(ScannerError):
    """The session has ended with messages undelivered. A new session on the same spool folder sends those on disk first."""

    def __init__(self, left: tuple[UndeliveredMessage, ...], folder: Path) -> None:
        names = [f"{'final ' if one.is_final else ''}{one.kind}{f' ({one.why})' if one.why else ''}" for one in left]
        super().__init__(
            f"not delivered: {', '.join(names)}; kept in {folder}, from where the next session of this scan sends them"
        )
        self.left = left
        self.folder = folder
