"""Messages that are not delivered yet, as files: they survive the end of the process.

Results and failures are on disk before they count as taken, and leave it once they are confirmed. Of progress only the newest
waits, in memory; it is put on disk while nothing can be sent. Bounded: a partial result for which there is no room takes that of
older partial ones, which it supersedes, and is refused when they are not enough; a final one and a failure are always taken. All
methods may be called by any thread, and by a signal handler in the midst of another; the lock is never held while something is
written, so that a large skymap holds up nobody else.

A message gets its number when it is handed over and is visible once it is on disk. One that was handed over later may be on disk
earlier; it is not sent before the others of its kind that are still being written, since SkyDriver goes by the numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from skydriver_scanner.errors import SettingsError, SpoolFull, UndeliveredMessage
from skydriver_scanner.protocol import FAILURE, KINDS, PROGRESS, RESULT, MessageRefused, checked_producer, checked_sequence

log = logging.getLogger("skydriver_scanner")

_SUFFIX = ".message"
_REFUSED = ".refused"
_DAMAGED = ".damaged"
_MOST_REFUSED = 20
_MAX_HEADER_BYTES = 4096
_ORDER = attrgetter("order")
_HEADER_CRC = "header_crc32"
_FIRST_FIELDS = frozenset(("kind", "producer", "sequence", "is_final", "crc32"))
"""All fields of a header that was written before headers had a checksum of their own."""


@dataclass(frozen=True)
class Entry:
    """A message that waits. order: unique and growing in a spool, as the numbers of a session are. size: bytes of its file.

    plain: the body, unless it is on disk.
    """

    order: int
    kind: str
    producer: str
    sequence: int
    is_final: bool = False
    path: Path | None = None
    size: int = 0
    plain: bytes | None = field(default=None, repr=False)

    @property
    def is_partial(self) -> bool:
        """Whether it is a skymap that a later one supersedes."""
        return self.kind == RESULT and not self.is_final


class _Claim:
    """The lock on a folder, as an open file. A forked child has no part in it: kept open there, it would outlive the session."""

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError when another session has it, OSError."""
        self._file: int | None = None
        with _forking:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self._file = file
            _claims.add(self)

    def release(self) -> None:
        """Close the file, once: its number may be another file's afterwards."""
        with _forking:
            _claims.discard(self)
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)


_forking = threading.RLock()
"""Held while a descriptor is opened or closed, so that no child is forked between that and its being noted."""
_claims: set[_Claim] = set()


def _release_after_fork() -> None:
    for claim in list(_claims):
        claim.release()
    _forking.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_release_after_fork)


def make_private(folder: Path) -> None:
    """Make a folder at a place where others may write, or see that the one which is there is ours alone to write in.

    Raises SettingsProblem: somebody else could have put messages into it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise SettingsError(f"the spool folder {folder} can't be used: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"the spool folder {folder} belongs to another user or others may write in it: "
            "name another one in SKYSCAN_SKYDRIVER_SPOOL_DIR"
        )


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
        self._under_way: dict[int, Entry] = {}
        """Those that have a number and are not on disk yet."""
        self._aside: list[UndeliveredMessage] = []
        self._bytes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim = _Claim(folder / "lock")
        except BlockingIOError as error:
            raise SettingsError(f"another session of this scan uses the spool folder {folder}") from error
        except OSError as error:
            raise SettingsError(f"the spool folder {folder} can't be used: {error.strerror}") from error
        try:
            self._take_over()
        except OSError as error:
            self._claim.release()
            raise SettingsError(f"the spool folder {folder} can't be used: {error.strerror}") from error
        self._first_order = max(time.time_ns(), *(order + 1 for order in self._waiting), 0)
        self._sequences = itertools.count()

    @property
    def folder(self) -> Path:
        return self._folder

    def close(self) -> None:
        """Let another session have the folder. What waits stays. Closing again does nothing."""
        self._claim.release()

    def holds_final_message(self) -> bool:
        """Whether a final result or a failure waits, of this session or an earlier one."""
        with self._lock:
            return any(entry.is_final or entry.kind == FAILURE for entry in self._entries(*KINDS))

    def is_empty(self, kinds: Collection[str] = KINDS) -> bool:
        """Whether no message of these kinds waits, nor is being written."""
        with self._lock:
            return not self._entries(*kinds) and not any(entry.kind in kinds for entry in list(self._under_way.values()))

    def _entries(self, *kinds: str) -> list[Entry]:
        """Those that wait, copied at one blow: a signal handler may put another one at any point."""
        return [entry for entry in list(self._waiting.values()) if entry.kind in kinds]

    def put(self, kind: str, plain: bytes, *, is_final: bool = False) -> None:
        """Take a result or a failure; it is on disk when this returns. Raises SpoolFull for a partial result."""
        must_fit = kind == RESULT and not is_final
        entry: Entry | None = None
        taken: Entry | None = None
        try:
            with self._lock:
                superseded = sum(each.size for each in self._entries(RESULT) if each.is_partial) if must_fit else 0
                if must_fit and self._bytes - superseded + len(plain) > self._max_bytes:
                    raise SpoolFull(f"the spool holds {self._bytes} of {self._max_bytes} bytes: a partial result was not taken")
                entry = self._next(kind, is_final=is_final)
                self._under_way[entry.order] = entry
                self._bytes += len(plain)
            try:
                taken = self._write(entry, plain)
            except OSError as error:
                if must_fit:
                    raise SpoolFull(f"a partial result was not taken: {error.strerror}") from error
                log.error("the spool can't be written (%s): a %s waits in memory only", error.strerror, kind)
                taken = replace(entry, plain=plain)
        finally:
            if entry is not None:
                with self._lock:
                    if self._under_way.pop(entry.order, None) is not None:
                        self._bytes -= len(plain)
                    if taken is not None:
                        self._bytes += taken.size
                        self._waiting[taken.order] = taken
                        self._make_room(taken)

    def _make_room(self, newest: Entry) -> None:
        """Let go of the oldest partial results while there are too many bytes: a later one is on disk, which supersedes them."""
        older = [entry for entry in self._entries(RESULT) if entry.is_partial and entry.order < newest.order]
        for entry in sorted(older if newest.is_partial else [], key=_ORDER):
            if self._bytes <= self._max_bytes:
                return
            log.warning("the spool is full: a partial result is let go, a newer one waits")
            self._forget(entry)

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
                    saved = self._write(entry, entry.plain)
                except OSError as error:
                    log.warning("progress waits in memory only: %s", error.strerror)
                    continue
                with self._lock:
                    self._bytes += saved.size
                    is_wanted = entry.order in self._waiting
                    self._waiting[entry.order] = saved
                    if not is_wanted:  # a newer one came meanwhile, or it is delivered
                        self._forget(saved)

    def first(self, kinds: Collection[str] = KINDS) -> Entry | None:
        """The message of these kinds that is to be sent next: the oldest one, unless an older one of its kind is being written."""
        with self._lock:
            under_way = list(self._under_way.values())
            fit = [
                entry
                for entry in self._entries(*kinds)
                if not any(older.kind == entry.kind and older.order < entry.order for older in under_way)
            ]
            return min(fit, key=_ORDER, default=None)

    def read(self, entry: Entry) -> bytes | None:
        """The body of a message, None when it waits no longer, or its file is damaged or gone (``left`` names it then)."""
        if entry.plain is not None:
            return entry.plain
        assert entry.path is not None
        try:
            return _read(entry.path)[1]
        except FileNotFoundError:
            self._is_gone(entry)
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

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """All that was taken and is not delivered: what was refused, is damaged or gone from the disk included."""
        with self._lock:
            waiting = [
                UndeliveredMessage(entry.kind, entry.sequence, entry.path, entry.is_final)
                for entry in sorted((*self._waiting.values(), *self._under_way.values()), key=_ORDER)
            ]
            return (*self._aside, *waiting)

    def _next(self, kind: str, *, is_final: bool = False) -> Entry:
        sequence = next(self._sequences)  # in one step: a signal handler may put another message before the next line
        return Entry(self._first_order + sequence, kind, self._producer, sequence, is_final)

    def _forget(self, entry: Entry) -> bool:
        """Whether it still waited."""
        if self._waiting.pop(entry.order, None) is None:
            return False
        self._bytes -= entry.size
        if entry.path is not None:
            with contextlib.suppress(OSError):
                entry.path.unlink()
        return True

    def _is_gone(self, entry: Entry) -> None:
        """Somebody removed the file of a message: progress may vanish, what was promised is named."""
        with self._lock:
            if self._forget(entry) and entry.kind != PROGRESS:
                log.error("the file of a %s is gone from the spool", entry.kind)
                self._aside.append(UndeliveredMessage(entry.kind, entry.sequence, None, entry.is_final, "gone from disk"))

    def _set_aside(self, entry: Entry, suffix: str, why: str) -> None:
        with self._lock:
            if self._waiting.pop(entry.order, None) is None:
                return
            self._bytes -= entry.size
            path = _renamed(entry.path, suffix) if entry.path is not None else None
            self._aside.append(UndeliveredMessage(entry.kind, entry.sequence, path, entry.is_final, why))
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

    def _write(self, entry: Entry, plain: bytes) -> Entry:
        """The entry as it is then. Raises OSError."""
        path = self._folder / f"{entry.order:020d}-{entry.kind}{_SUFFIX}"
        header = _sealed(
            {
                "kind": entry.kind,
                "producer": entry.producer,
                "sequence": entry.sequence,
                "is_final": entry.is_final,
                "crc32": zlib.crc32(plain),
            }
        )
        temporary = path.with_suffix(".new")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(header + b"\n")
                file.write(plain)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(self._folder)
        except OSError:
            for file_left in (temporary, path):  # a message that counts as not taken must not be found by the next session
                with contextlib.suppress(OSError):
                    file_left.unlink()
            raise
        return replace(entry, path=path, size=len(header) + 1 + len(plain), plain=None)

    def _take_over(self) -> None:
        for temporary in self._folder.glob("*.new"):
            temporary.unlink()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            order, _, kind = path.stem.partition("-")
            try:
                header = _head(path)
                entry = Entry(
                    order=int(order),
                    kind=header["kind"],
                    producer=header["producer"],
                    sequence=header["sequence"],
                    is_final=header["is_final"],
                    path=path,
                    size=path.stat().st_size,
                )
            except (OSError, ValueError):
                log.error("%s is no message of ours and set aside", path)
                kept = _renamed(path, _DAMAGED)
                self._aside.append(UndeliveredMessage(kind if kind in KINDS else "message", 0, kept, why="damaged on disk"))
                continue
            self._waiting[entry.order] = entry
            self._bytes += entry.size
        if self._waiting:
            log.info("%d messages of an earlier session are sent first", len(self._waiting))


def _sealed(header: dict[str, Any]) -> bytes:
    """A header as it is written: with a checksum of all its other fields."""
    return json.dumps({**header, _HEADER_CRC: zlib.crc32(json.dumps(header).encode())}).encode()


def _opened(line: bytes) -> dict[str, Any]:
    """A header that was read. Raises ValueError."""
    header = json.loads(line)
    if not isinstance(header, dict):
        raise ValueError("not a message of ours")
    if _HEADER_CRC in header:
        is_whole = header.pop(_HEADER_CRC) == zlib.crc32(json.dumps(header).encode())
    else:
        is_whole = header.keys() == _FIRST_FIELDS
    if not is_whole or header.get("kind") not in KINDS or not isinstance(header.get("is_final"), bool):
        raise ValueError("not a message of ours")
    try:
        checked_producer(header.get("producer"))
        checked_sequence(header.get("sequence"))
    except MessageRefused as error:
        raise ValueError("not a message of ours") from error
    return header


def _head(path: Path) -> dict[str, Any]:
    """The header alone: a spool full of skymaps is not read through. Raises OSError, ValueError."""
    with path.open("rb") as file:
        return _opened(file.readline(_MAX_HEADER_BYTES))


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and body. Raises OSError, ValueError."""
    first, _, plain = path.read_bytes().partition(b"\n")
    header = _opened(first)
    if header.get("crc32") != zlib.crc32(plain):
        raise ValueError("not a message of ours")
    return header, plain


def _renamed(path: Path, suffix: str) -> Path | None:
    """Its new path; the old one when it can't be renamed, None when it is gone."""
    try:
        return path.replace(path.with_suffix(suffix))
    except FileNotFoundError:
        return None
    except OSError:
        return path


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
