"""States of scans that this process loaded or decided lately: reading one from its row costs more than the rest of a decision.

A state is kept with the hash of its newest event, which covers its whole history. So nothing here can be out of date: a row of
the database that bears another hash is read again.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.model.scan import Scan

MAX_BYTES = 64 * 1024 * 1024
"""For all states of a process. One of a scan with full progress takes some 40 kB."""
MAX_STATE_BYTES = 1024 * 1024
"""A larger state is read again each time: it would take the place of many, and is asked for by one scan only."""
_DICT_BYTES, _LIST_BYTES, _VALUE_BYTES = 232, 64, 56


class _Kept(NamedTuple):
    head_hash: bytes
    scan: Scan
    size: int


class ScanStateCache:
    """A memory of states by scan id, the newest of each scan, up to so many bytes; the one unused for longest goes first.

    kept_bytes: what all of it takes, estimated by ``size_in_memory``.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_state_bytes: int = MAX_STATE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._max_state_bytes = max_state_bytes
        self._states: OrderedDict[str, _Kept] = OrderedDict()
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def load(self, row: Any) -> Scan:
        """Return the state that a row of ``manifests`` holds (columns scan_id, version, head_hash, body, rest)."""
        kept = self._states.get(row["scan_id"])
        if kept is not None and kept.head_hash == row["head_hash"]:
            self._states.move_to_end(row["scan_id"])
            return kept.scan
        scan = scan_of_row(row)
        self.keep(row["head_hash"], scan, size_in_memory(row["body"], row["rest"]))
        return scan

    def keep(self, head_hash: bytes, scan: Scan, size: int) -> None:
        """Remember a state in place of the scan's older one. size: as ``size_in_memory`` gives it, in bytes."""
        if (former := self._states.pop(scan.scan_id, None)) is not None:
            self.kept_bytes -= former.size
        if size > self._max_state_bytes:
            return
        self._states[scan.scan_id] = _Kept(head_hash, scan, size)
        self.kept_bytes += size
        while self.kept_bytes > self._max_bytes:
            self.kept_bytes -= self._states.popitem(last=False)[1].size


def size_in_memory(body: bytes, rest: bytes) -> int:
    """Return about how many bytes a state takes that is stored as these two JSON texts; rather too many than too few.

    The length alone says little: a megabyte of empty lists takes twenty.
    """
    return sum(
        len(text)
        + _DICT_BYTES * text.count(b"{")
        + _LIST_BYTES * text.count(b"[")
        + _VALUE_BYTES * (text.count(b",") + text.count(b":"))
        for text in (body, rest)
    )


PROCESS_STATES = ScanStateCache()
"""Shared by every unit of work of the process, whatever it writes: the budget is the process's."""
