"""Messages that are not delivered yet, as files: they survive the end of the process.

Results and failures are on disk before they count as accepted, and are deleted once they are confirmed. Of progress only the newest
report waits, in memory; it is written to disk while nothing can be sent. The size is bounded: a partial result for which there is no
room replaces older partial ones, which it supersedes, and is rejected when that is not enough; a final one and a failure are always
accepted. All methods may be called by any thread, and by a signal handler that interrupts another call; the lock is never held while
a file is written, so that a large skymap blocks no other caller.

A message gets its number when it is accepted and is visible once it is on disk. One that was accepted later may be on disk earlier;
it is not sent before the others of its kind that are still being written, since SkyDriver goes by the numbers.
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
from skydriver_scanner.protocol import FAILURE, KINDS, PROGRESS, RESULT, MessageRejected, checked_producer, checked_sequence

logger = logging.getLogger("skydriver_scanner")

_SUFFIX = ".message"
_REFUSED = ".refused"
_DAMAGED = ".damaged"
_MAX_SET_ASIDE = 20
_MAX_HEADER_BYTES = 4096
_ORDER = attrgetter("order")
_KEPT_IN_MEMORY = "cannot write the spool (%s): this %s is kept in memory only and is lost if the process dies"
_MIB = 1024 * 1024
_HEADER_CRC = "header_crc32"
_FIRST_FIELDS = frozenset(("kind", "producer", "sequence", "is_final", "crc32"))
"""The fields of headers that were written before headers had a checksum of their own."""


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
        """Whether a later skymap supersedes it."""
        return self.kind == RESULT and not self.is_final


class _DirectoryLock:
    """The lock on a directory, as an open file. A forked child closes it: kept open there, it would outlive the session."""

    def __init__(self, path: Path) -> None:
        """Lock. Raises BlockingIOError when another session has the lock, OSError."""
        self._file: int | None = None
        with _fork_lock:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self._file = file
            _locks.add(self)

    def release(self) -> None:
        """Close the file, once: its descriptor may belong to another file afterwards."""
        with _fork_lock:
            _locks.discard(self)
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)


_fork_lock = threading.RLock()
"""Held while a descriptor is opened or closed, so that no child is forked before that is recorded."""
_locks: set[_DirectoryLock] = set()


def _release_after_fork() -> None:
    for lock in list(_locks):
        lock.release()
    _fork_lock.release()


os.register_at_fork(before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_release_after_fork)


def make_private(folder: Path) -> None:
    """Make a directory where other users may write, or check that nobody else may write in an existing one.

    Raises SettingsError: another user could have put messages into it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise SettingsError(f"the spool directory {folder} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(
            f"the spool directory {folder} belongs to another user or others may write in it: "
            "set SKYSCAN_SKYDRIVER_SPOOL_DIR to another one"
        )


class Spool:
    """The waiting messages of one scan, oldest first. One session at a time owns the directory."""

    def __init__(self, folder: Path, producer: str, *, max_bytes: int) -> None:
        """Open the directory and take over what an earlier session left. Raises SettingsError."""
        self._folder = folder
        self._producer = producer
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._saving = threading.Lock()
        self._waiting: dict[int, Entry] = {}
        self._being_written: dict[int, Entry] = {}
        """Messages that have a number and are not on disk yet."""
        self._aside: list[UndeliveredMessage] = []
        self._bytes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory_lock = _DirectoryLock(folder / "lock")
        except BlockingIOError as error:
            raise SettingsError(f"the spool directory {folder} is in use by another session of this scan") from error
        except OSError as error:
            raise SettingsError(f"the spool directory {folder} cannot be used: {error.strerror}") from error
        try:
            self._take_over()
        except OSError as error:
            self._directory_lock.release()
            raise SettingsError(f"the spool directory {folder} cannot be used: {error.strerror}") from error
        self._first_order = max(time.time_ns(), *(order + 1 for order in self._waiting), 0)
        self._sequences = itertools.count()

    @property
    def folder(self) -> Path:
        return self._folder

    def close(self) -> None:
        """Release the directory; waiting messages stay in it. Closing again does nothing."""
        self._directory_lock.release()

    def holds_final_message(self) -> bool:
        """Whether a final result or a failure waits, of this session or an earlier one."""
        with self._lock:
            return any(entry.is_final or entry.kind == FAILURE for entry in self._entries(*KINDS))

    def is_empty(self, kinds: Collection[str] = KINDS) -> bool:
        """Whether no message of these kinds waits, nor is being written."""
        with self._lock:
            return not self._entries(*kinds) and not any(entry.kind in kinds for entry in list(self._being_written.values()))

    def _entries(self, *kinds: str) -> list[Entry]:
        """Return the waiting messages of these kinds, copied in one step: a signal handler may put another one at any point."""
        return [entry for entry in list(self._waiting.values()) if entry.kind in kinds]

    def put(self, kind: str, plain: bytes, *, is_final: bool = False) -> None:
        """Accept a result or a failure; it is on disk when this returns. Raises SpoolFull for a partial result."""
        must_fit = kind == RESULT and not is_final
        entry: Entry | None = None
        accepted: Entry | None = None
        try:
            with self._lock:
                superseded = sum(each.size for each in self._entries(RESULT) if each.is_partial) if must_fit else 0
                if must_fit and self._bytes - superseded + len(plain) > self._max_bytes:
                    raise SpoolFull(self._full())
                entry = self._next(kind, is_final=is_final)
                self._being_written[entry.order] = entry
                self._bytes += len(plain)
            try:
                accepted = self._write(entry, plain)
            except OSError as error:
                if must_fit:
                    raise SpoolFull(
                        f"cannot write the spool ({error.strerror}); the partial result was not accepted"
                    ) from error
                logger.error(_KEPT_IN_MEMORY, error.strerror, kind)
                accepted = replace(entry, plain=plain)
        finally:
            if entry is not None:
                with self._lock:
                    if self._being_written.pop(entry.order, None) is not None:
                        self._bytes -= len(plain)
                    if accepted is not None:
                        self._bytes += accepted.size
                        self._waiting[accepted.order] = accepted
                        self._make_room(accepted)

    def _full(self) -> str:
        used, limit = self._bytes / _MIB, self._max_bytes / _MIB
        return f"the spool is full ({used:.1f} of {limit:.1f} MiB); the partial result was not accepted"

    def _make_room(self, newest: Entry) -> None:
        """Delete the oldest partial results while there are too many bytes: a later one on disk supersedes them."""
        older = [entry for entry in self._entries(RESULT) if entry.is_partial and entry.order < newest.order]
        for entry in sorted(older if newest.is_partial else [], key=_ORDER):
            if self._bytes <= self._max_bytes:
                return
            logger.warning("the spool is full: deleting a partial result that a newer one supersedes")
            self._remove(entry)

    def put_progress(self, plain: bytes, merge: Callable[[bytes, bool], bytes] | None = None) -> None:
        """Accept a progress report in place of older ones that still wait. In memory: returns at once.

        merge: adds the parts that the report leaves out, from an older one; it is told whether that one is of this session.
        """
        with self._lock:
            for old in self._entries(PROGRESS):
                older = old.plain
                if merge is not None and older is None and old.path is not None:
                    with contextlib.suppress(OSError, ValueError):
                        older = _read(old.path)[1]
                if merge is not None and older is not None:
                    plain = merge(older, old.producer == self._producer)
                self._remove(old)
            entry = replace(self._next(PROGRESS), plain=plain)
            self._waiting[entry.order] = entry

    def save_progress(self) -> None:
        """Write the progress that waits in memory to disk, since it may wait for long."""
        with self._saving:
            with self._lock:
                entries = [entry for entry in self._entries(PROGRESS) if entry.plain is not None]
            for entry in entries:
                assert entry.plain is not None
                try:
                    saved = self._write(entry, entry.plain)
                except OSError as error:
                    logger.warning(_KEPT_IN_MEMORY, error.strerror, PROGRESS)
                    continue
                with self._lock:
                    self._bytes += saved.size
                    is_wanted = entry.order in self._waiting
                    self._waiting[entry.order] = saved
                    if not is_wanted:  # a newer one arrived meanwhile, or it is delivered
                        self._remove(saved)

    def first(self, kinds: Collection[str] = KINDS) -> Entry | None:
        """Return the message of these kinds that is sent next: the oldest, unless an older one of its kind is being written."""
        with self._lock:
            under_way = list(self._being_written.values())
            ready = [
                entry
                for entry in self._entries(*kinds)
                if not any(older.kind == entry.kind and older.order < entry.order for older in under_way)
            ]
            return min(ready, key=_ORDER, default=None)

    def read(self, entry: Entry) -> bytes | None:
        """Return the body of a message; None when it no longer waits, or its file is corrupt or gone (``left`` names it then)."""
        if entry.plain is not None:
            return entry.plain
        assert entry.path is not None
        try:
            return _read(entry.path)[1]
        except FileNotFoundError:
            self._on_file_deleted(entry)
        except (OSError, ValueError):
            logger.error("a spooled %s is corrupt and was moved aside", entry.kind)
            self._set_aside(entry, _DAMAGED, "damaged on disk")
        return None

    def delivered(self, entry: Entry) -> None:
        """Remove a message that is confirmed."""
        with self._lock:
            self._remove(self._waiting.get(entry.order, entry))

    def reject(self, entry: Entry, why: str) -> None:
        """Set a message aside that SkyDriver will never accept. Progress is dropped; the others stay on disk."""
        if entry.kind == PROGRESS:
            self.delivered(entry)
            return
        self._set_aside(entry, _REFUSED, why)

    def left(self) -> tuple[UndeliveredMessage, ...]:
        """Return all messages that were accepted and not delivered, including rejected, corrupt and deleted ones."""
        with self._lock:
            waiting = [
                UndeliveredMessage(entry.kind, entry.sequence, entry.path, entry.is_final)
                for entry in sorted((*self._waiting.values(), *self._being_written.values()), key=_ORDER)
            ]
            return (*self._aside, *waiting)

    def _next(self, kind: str, *, is_final: bool = False) -> Entry:
        sequence = next(self._sequences)  # in one step: a signal handler may put another message before the next line
        return Entry(self._first_order + sequence, kind, self._producer, sequence, is_final)

    def _remove(self, entry: Entry) -> bool:
        """Remove a message; return whether it still waited."""
        if self._waiting.pop(entry.order, None) is None:
            return False
        self._bytes -= entry.size
        if entry.path is not None:
            with contextlib.suppress(OSError):
                entry.path.unlink()
        return True

    def _on_file_deleted(self, entry: Entry) -> None:
        """Handle a message whose file somebody deleted: progress may vanish, other messages are named as undelivered."""
        with self._lock:
            if self._remove(entry) and entry.kind != PROGRESS:
                logger.error("the file of a spooled %s was deleted", entry.kind)
                self._aside.append(UndeliveredMessage(entry.kind, entry.sequence, None, entry.is_final, "gone from disk"))

    def _set_aside(self, entry: Entry, suffix: str, why: str) -> None:
        with self._lock:
            if self._waiting.pop(entry.order, None) is None:
                return
            self._bytes -= entry.size
            path = _rename(entry.path, suffix) if entry.path is not None else None
            self._aside.append(UndeliveredMessage(entry.kind, entry.sequence, path, entry.is_final, why))
            self._trim_set_aside()

    def _trim_set_aside(self) -> None:
        """Delete the oldest set-aside files beyond the limits of number and size; the newest one stays in any case."""
        files = sorted((*self._folder.glob(f"*{_REFUSED}"), *self._folder.glob(f"*{_DAMAGED}")), reverse=True)
        size = 0
        for number, path in enumerate(files):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
                if number > 0 and (number >= _MAX_SET_ASIDE or size > self._max_bytes):
                    path.unlink()

    def _write(self, entry: Entry, plain: bytes) -> Entry:
        """Write a message to disk; return its new entry. Raises OSError."""
        path = self._folder / f"{entry.order:020d}-{entry.kind}{_SUFFIX}"
        header = _encode_header(
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
            for file_left in (temporary, path):  # the next session must not find a message that was not accepted
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
                header = _read_header(path)
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
                logger.error("%s is not a spooled message and was moved aside", path)
                kept = _rename(path, _DAMAGED)
                self._aside.append(UndeliveredMessage(kind if kind in KINDS else "message", 0, kept, why="damaged on disk"))
                continue
            self._waiting[entry.order] = entry
            self._bytes += entry.size
        if self._waiting:
            logger.info("sending %d messages of an earlier session first", len(self._waiting))


def _encode_header(header: dict[str, Any]) -> bytes:
    """Return a header as it is written: with a checksum of all its other fields."""
    return json.dumps({**header, _HEADER_CRC: zlib.crc32(json.dumps(header).encode())}).encode()


def _decode_header(line: bytes) -> dict[str, Any]:
    """Parse a header line. Raises ValueError."""
    header = json.loads(line)
    if not isinstance(header, dict):
        raise ValueError("not a spooled message")
    if _HEADER_CRC in header:
        is_whole = header.pop(_HEADER_CRC) == zlib.crc32(json.dumps(header).encode())
    else:
        is_whole = header.keys() == _FIRST_FIELDS
    if not is_whole or header.get("kind") not in KINDS or not isinstance(header.get("is_final"), bool):
        raise ValueError("not a spooled message")
    try:
        checked_producer(header.get("producer"))
        checked_sequence(header.get("sequence"))
    except MessageRejected as error:
        raise ValueError("not a spooled message") from error
    return header


def _read_header(path: Path) -> dict[str, Any]:
    """Read the header alone, without the skymap after it. Raises OSError, ValueError."""
    with path.open("rb") as file:
        return _decode_header(file.readline(_MAX_HEADER_BYTES))


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read header and body. Raises OSError, ValueError."""
    first, _, plain = path.read_bytes().partition(b"\n")
    header = _decode_header(first)
    if header.get("crc32") != zlib.crc32(plain):
        raise ValueError("not a spooled message")
    return header, plain


def _rename(path: Path, suffix: str) -> Path | None:
    """Rename a file; return its new path, the old one when it cannot be renamed, None when it is gone."""
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
