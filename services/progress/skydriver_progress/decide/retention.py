"""How long a scan's superseded reports and partial skymaps stay, and when to look at the scan again."""

from datetime import timedelta

from skydriver_common.model.scan import Scan

_PAUSE = timedelta(days=1)
_AT_ONCE = timedelta(0)


def next_compaction_after(scan: Scan | None, *, has_more: bool, before: float, retention: timedelta) -> timedelta | None:
    """Return when the scan is to be compacted again; None: never.

    has_more: the last compaction reached its limit. before: what was recorded earlier than this is compacted, Unix seconds. A scan is
    compacted until it has ended and nothing was heard of its scanner since then.
    """
    if has_more:
        return _AT_ONCE
    if scan is None or (scan.scanner.ended_at is not None and scan.scanner.heard_at < before):
        return None
    return min(_PAUSE, retention)
