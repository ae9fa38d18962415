"""Messages that are not delivered yet, as files: they survive the end of the process.

Results and failures are on disk before they count as taken, and leave it once they are confirmed. Of progress only the newest
waits, in memory; it is put on disk while nothing can be sent. Bounded: a partial result that does not fit is refused at the
door, a final one and a failure are always taken. All methods may be called by any thread, and by a signal handler in the midst of
another; the lock is never held while something is written, so that a large skymap holds up nobody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from skydriver_scanner.errors import LeftMessage, SettingsProblem, SpoolFull
from skydriver_scanner.wire import FAILURE, KINDS, PROGRESS, RESULT

log = logging.getLogger("skydriver_scanner")

_SUFFIX = ".message"
_REFUSED = ".refused"
_DAMAGED = ".damaged"
_MOST_REFUSED = 20
_MOST_HEADER_BYTES = 4096
_ORDER = attrgetter("order")


@dataclass(frozen=True)
class Entry:
    """A message that waits. order: Unix nanoseconds, unique and growing in a spool. plain: the body, unless it is on disk."""

    order: int
    kind: str
    producer: str
    sequence: int
    is_final: bool = False
    path: Path | None = None
    plain: bytes | None = field(default=None, repr=False)


class Spool:
    """The waiting messages of one scan, oldest first. One session at a time owns the folder."""

    def __init__(self, folder: Path, producer: str, *, max_bytes: int) -> None:
        """Open the folder and take over what an earlier session has left. Raises SettingsProblem."""
        self._folder = folder
        self._producer = producer
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._saving = threading.Lock()
        self._waiting: dict[int, Entry] = {}
        self._refused: list[LeftMessage] = []
        self._sequences = itertools.count()
        self._order = 0
        self._bytes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_over()
        except BlockingIOError as error:
            os.close(self._owner)
            raise SettingsProblem(f"another session of this scan uses the spool folder {folder}") from error
        except OSError as error:
            raise SettingsProblem(f"the spool folder {folder} can't be used: {error.strerror}") from error

    @property
    def folder(self) -> Path:
        return self._folder

    def close(self) -> None:
        """Let another session have the folder. What waits stays."""
        os.close(self._owner)

    def holds_what_decides(self) -> bool:
        """Whether a final result or a failure waits, of this session or an earlier one."""
        with self._lock:
            return any(entry.is_final or entry.kind == FAILURE for entry in self._entries(*KINDS))

    def _entries(self, *kinds: str) -> list[Entry]:
        """Those that wait, copied at one blow: a signal handler may put another one at any point."""
        return [entry for entry in list(self._waiting.values()) if entry.kind in kinds]

    def put(self, kind: str, plain: bytes, *, is_final: bool = False) -> None:
        """Take a result or a failure; it is on disk when this returns. Raises SpoolFull for a partial result."""
        must_fit = kind == RESULT and not is_final
        with self._lock:
            if must_fit and self._bytes + len(plain) > self._max_bytes:
                raise SpoolFull(f"the spool holds {self._bytes} of {self._max_bytes} bytes: a partial result was not taken")
            entry = self._next(kind, is_final=is_final)
            self._bytes += len(plain)
        written = 0
        try:
            entry, written = self._write(entry, plain)
        except OSError as error:
            if must_fit:
                raise SpoolFull(f"a partial result was not taken: {error.strerror}") from error
            log.error("the spool can't be written (%s): a %s waits in memory only", error.strerror, kind)
            entry = replace(entry, plain=plain)
        finally:
            with self._lock:
                self._bytes += written - len(plain)
        with self._lock:
            self._waiting[entry.order] = entry

    def put_progress(self, plain: bytes, merged: Callable[[bytes, bool], bytes] | None = None) -> None:
        """Take a progress report in place of older ones that still wait. In memory: returns at once.

        merged: gives the report with what it does not say itself, from an older one and whether that is of this session.
        """
        with self._lock:
            for old in self._entries(PROGRESS):
                older = old.plain
                if merged is not None and older is None and old.path is not None:
                    with contextlib.suppress(OSError, ValueError):
                        older = _read(old.path)[1]
                if merged is not None and older is not None:
                    plain = merged(older, old.producer == self._producer)
                self._forget(old)
            entry = replace(self._next(PROGRESS), plain=plain)
            self._waiting[entry.order] = entry

    def save_progress(self) -> None:
        """Put the progress that waits in memory on disk, since it may wait for long."""
        with self._saving:
            with self._lock:
                entries = [entry for entry in self._entries(PROGRESS) if entry.plain is not None]
            for entry in entries:
                assert entry.plain is not None
                try:
                    saved, written = self._write(entry, entry.plain)
                except OSError as error:
                    log.warning("progress waits in memory only: %s", error.strerror)
                    continue
                with self._lock:
                    self._bytes += written
                    is_wanted = entry.order in self._waiting
                    self._waiting[entry.order] = saved
                    if not is_wanted:  # a newer one came meanwhile, or it is delivered
                        self._forget(saved)

    def first(self, kinds: Collection[str] = KINDS) -> Entry | None:
        """The oldest message of these kinds that waits."""
        with self._lock:
            return min(self._entries(*kinds), key=_ORDER, default=None)

    def read(self, entry: Entry) -> bytes | None:
        """The body of a message, None when it waits no longer or its file was damaged (then it is set aside)."""
        if entry.plain is not None:
            return entry.plain
        assert entry.path is not None
        try:
            return _read(entry.path)[1]
        except FileNotFoundError:
            with self._lock:
                self._waiting.pop(entry.order, None)
        except (OSError, ValueError):
            log.error("a %s in the spool is damaged and set aside", entry.kind)
            self._set_aside(entry, _DAMAGED, "damaged on disk")
        return None

    def delivered(self, entry: Entry) -> None:
        """A message is confirmed: it waits no longer."""
        with self._lock:
            self._forget(self._waiting.get(entry.order, entry))

    def refused(self, entry: Entry, why: str) -> None:
        """SkyDriver will never take this message. Progress is dropped; the others stay on disk, set aside."""
        if entry.kind == PROGRESS:
            self.delivered(entry)
            return
        self._set_aside(entry, _REFUSED, why)

    def left(self) -> tuple[LeftMessage, ...]:
        """All that was taken and is not delivered, what was refused included."""
        with self._lock:
            waiting = [
                LeftMessage(entry.kind, entry.sequence, entry.path, entry.is_final)
                for _, entry in sorted(self._waiting.items())
            ]
            return (*self._refused, *waiting)

    def _next(self, kind: str, *, is_final: bool = False) -> Entry:
        self._order = max(self._order + 1, time.time_ns())
        return Entry(self._order, kind, self._producer, next(self._sequences), is_final)

    def _forget(self, entry: Entry) -> None:
        if self._waiting.pop(entry.order, None) is not None and entry.path is not None:
            with contextlib.suppress(OSError):
                self._bytes -= entry.path.stat().st_size
                entry.path.unlink()

    def _set_aside(self, entry: Entry, suffix: str, why: str) -> None:
        with self._lock:
            if self._waiting.pop(entry.order, None) is None:
                return
            path = entry.path
            if path is not None:
                with contextlib.suppress(OSError):
                    self._bytes -= path.stat().st_size
                    path = path.replace(path.with_suffix(suffix))
            self._refused.append(LeftMessage(entry.kind, entry.sequence, path, entry.is_final, why))
            self._bound_what_is_set_aside()

    def _bound_what_is_set_aside(self) -> None:
        """Keep the newest, as many and as much as there may be; the very last one in any case."""
        files = sorted((*self._folder.glob(f"*{_REFUSED}"), *self._folder.glob(f"*{_DAMAGED}")), reverse=True)
        size = 0
        for number, path in enumerate(files):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
                if number > 0 and (number >= _MOST_REFUSED or size > self._max_bytes):
                    path.unlink()

    def _write(self, entry: Entry, plain: bytes) -> tuple[Entry, int]:
        """The entry as it is then, and its bytes on disk. Raises OSError."""
        path = self._folder / f"{entry.order:020d}-{entry.kind}{_SUFFIX}"
        header = {
            "kind": entry.kind,
            "producer": entry.producer,
            "sequence": entry.sequence,
            "is_final": entry.is_final,
            "crc32": zlib.crc32(plain),
        }
        temporary = path.with_suffix(".new")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(plain)
                file.flush()
                os.fsync(file.fileno())
                written = file.tell()
            temporary.replace(path)
            _sync_folder(self._folder)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return replace(entry, path=path, plain=None), written

    def _take_over(self) -> None:
        for temporary in self._folder.glob("*.new"):
            temporary.unlink()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                header = _head(path)
                entry = Entry(
                    order=int(path.name.partition("-")[0]),
                    kind=header["kind"],
                    producer=header["producer"],
                    sequence=header["sequence"],
                    is_final=header["is_final"],
                    path=path,
                )
            except (OSError, ValueError, KeyError):
                log.error("%s is no message of ours and set aside", path)
                path.replace(path.with_suffix(_DAMAGED))
                continue
            self._waiting[entry.order] = entry
            self._order = max(self._order, entry.order)
            self._bytes += path.stat().st_size
        if self._waiting:
            log.info("%d messages of an earlier session are sent first", len(self._waiting))


def _head(path: Path) -> dict[str, Any]:
    """The header alone: a spool full of skymaps is not read through. Raises OSError, ValueError."""
    with path.open("rb") as file:
        header = json.loads(file.readline(_MOST_HEADER_BYTES))
    if not isinstance(header, dict) or header.get("kind") not in KINDS:
        raise ValueError("not a message of ours")
    return header


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and body. Raises OSError, ValueError."""
    first, _, plain = path.read_bytes().partition(b"\n")
    header = json.loads(first)
    if not isinstance(header, dict) or header.get("crc32") != zlib.crc32(plain) or header.get("kind") not in KINDS:
        raise ValueError("not a message of ours")
    return header, plain


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
