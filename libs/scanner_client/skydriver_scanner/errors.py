"""The errors of this library. No text holds the token or a value of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ScannerError(Exception):
    """Base of all that this library raises on purpose, except ``protocol.MessageRejected``."""


class SettingsError(ScannerError):
    """The session cannot be opened as configured; the text names each variable that is wrong."""


class SpoolFull(ScannerError):
    """A partial result was not accepted: the spool is full. Nothing that was accepted before is lost."""


class CallFailed(ScannerError):
    """A REST call failed or was rejected. status: the last HTTP status, None if there was no response.

    is_final: another attempt would get the same response. wait_s: seconds to wait before the next attempt, as the server asked.
    """

    def __init__(self, what: str, status: int | None, *, is_final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.status = status
        self.is_final = is_final
        self.wait_s = wait_s


class ScanStopped(ScannerError):
    """The scan was deleted or its workflow ended while this call was waiting."""


@dataclass(frozen=True)
class UndeliveredMessage:
    """A message that was not delivered. path: its file in the spool; None: it was in memory only and is lost."""

    kind: str
    sequence: int
    path: Path | None
    is_final: bool = False
    why: str = ""


class NotDelivered(ScannerError):
    """The session ended with undelivered messages. A new session with the same spool directory sends those on disk first."""

    def __init__(self, left: tuple[UndeliveredMessage, ...], folder: Path) -> None:
        names = [f"{'final ' if one.is_final else ''}{one.kind}{f' ({one.why})' if one.why else ''}" for one in left]
        super().__init__(f"not delivered: {', '.join(names)}; kept in {folder}. Run `python -m skydriver_scanner` to send them")
        self.left = left
        self.folder = folder
