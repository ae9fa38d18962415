"""Priorities as columns of 32 bits hold them."""

_MOST = 2**31 - 1


def rank(priority: int) -> int:
    """The priority by which waiting scans and work are ordered: beyond 32 bits all are equal, and their age decides."""
    return max(-_MOST, min(_MOST, priority))
