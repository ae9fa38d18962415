"""States of scans that were loaded or decided lately, under the hash of their newest event.

The hash says what the state is: it covers the whole history. So nothing here can be out of date; what is in the database under
another hash is simply not found.
"""

from collections import OrderedDict
from typing import Any

from skydriver_common.log.stored_state import scan_of_row
from skydriver_common.model.scan import Scan

_MOST = 512
"""A state of a scan with full progress takes some 30 kB."""


class States:
    """A bounded memory of states: reading one from its row costs more than the rest of a decision."""

    def __init__(self) -> None:
        self._states: OrderedDict[bytes, Scan] = OrderedDict()

    def of_row(self, row: Any) -> Scan:
        """The state that a row of ``manifests`` holds (columns scan_id, version, head_hash, body, rest)."""
        known = self._states.get(row["head_hash"])
        if known is not None:
            self._states.move_to_end(row["head_hash"])
            return known
        scan = scan_of_row(row)
        self.keep(row["head_hash"], scan)
        return scan

    def keep(self, head_hash: bytes, scan: Scan) -> None:
        """Remember a state."""
        self._states[head_hash] = scan
        while len(self._states) > _MOST:
            self._states.popitem(last=False)
