"""What a scan has done so far, as lines in a file, so that a restarted scanner goes on where it was.

Upstream keeps nothing and starts from zero (scanner contract 3); SkyDriver may start this scanner again after a crash. A
line is written before the message it speaks of is acknowledged, so a kill loses nothing; a half line at the end is dropped.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skydriver_sandbox import ewms_codec
from skydriver_sandbox.likelihood import Reconstruction
from skydriver_sandbox.scanner.refinement import Pixel


@dataclass
class SentRound:
    """pixels in the order they were sent; is_published: the broker confirmed them all."""

    at: float
    pixels: list[Pixel]
    is_published: bool = False


@dataclass
class Received:
    at: float
    answer: Reconstruction
    runtime_s: float


@dataclass
class Past:
    """What earlier lives of this scan left. Times are Unix seconds."""

    started_at: float | None = None
    queue: str | None = None
    entries: list[SentRound | Received] = field(default_factory=list)


class JournalDamagedError(Exception):
    """The journal exists but is not one of this scan."""


class Journal:
    """Append-only; one scanner at a time. Use as a context manager."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """fingerprint: what must be the same for old answers to be good: event, algorithm, progression."""
        self._path = path
        self._fingerprint = fingerprint

    def open(self) -> Past:
        """Read what is there and make ready to append. Raises JournalDamagedError, OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        past, good = Past(), 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._read(past, line)
            good += len(line)
        self._file.seek(good)
        self._file.truncate()
        return past

    def _read(self, past: Past, line: bytes) -> None:
        try:
            entry = json.loads(line)
            match entry["kind"]:
                case "start":
                    if entry["fingerprint"] != self._fingerprint:
                        raise JournalDamagedError(f"{self._path.name} belongs to another scan")
                    past.started_at = past.started_at if past.started_at is not None else float(entry["at"])
                    past.queue = str(entry["queue"])
                case "sent":
                    pixels = [(int(nside), int(pixel)) for nside, pixel in entry["pixels"]]
                    past.entries.append(SentRound(float(entry["at"]), pixels))
                case "published":
                    for earlier in past.entries:
                        if isinstance(earlier, SentRound):
                            earlier.is_published = True
                case "received":
                    answer, runtime_s = ewms_codec.read_answer(entry)
                    past.entries.append(Received(float(entry["at"]), answer, runtime_s))
        except (ValueError, KeyError, TypeError, ewms_codec.UndecodableError) as error:
            raise JournalDamagedError(f"{self._path.name} holds a line that is not ours: {type(error).__name__}") from error

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def started(self, at: float, queue: str) -> None:
        """queue: the name pixels go to; a later life with another queue must send again what has no answer."""
        self._write(kind="start", at=at, queue=queue, fingerprint=self._fingerprint)
        self.flush()

    def sent(self, at: float, pixels: Iterable[Pixel]) -> None:
        """To be written before the round is published."""
        self._write(kind="sent", at=at, pixels=[list(pixel) for pixel in pixels])
        self.flush()

    def published(self, at: float) -> None:
        self._write(kind="published", at=at)
        self.flush()

    def received(self, at: float, answer: Reconstruction, runtime_s: float) -> None:
        """Not on disk before `flush`: answers come in batches."""
        self._write(kind="received", at=at, **ewms_codec.answer_json(answer, runtime_s))

    def flush(self) -> None:
        """Hand the lines to the operating system: they survive the end of this process, however it comes."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()
