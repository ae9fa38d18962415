"""Priorities of scans: from where on a scan is urgent, and how columns of 32 bits hold any priority."""

URGENT_PRIORITY = 100
"""From here on a scan is a real-time alert, which no throttle holds back. Source: REST contract 8.5, 9.6.

Statements of SQL that compare with it (the throttle, ``claim_launch``) hold the same number."""
_MAX_RANK = 2**31 - 1


def rank(priority: int) -> int:
    """The priority by which waiting scans and work are ordered: beyond 32 bits all are equal, and their age decides."""
    return max(-_MAX_RANK, min(_MAX_RANK, priority))
