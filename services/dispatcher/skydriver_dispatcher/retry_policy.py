"""How long to wait before something is tried again. Pure: all pauses of the dispatcher's work, named and with their reason.

Pauses after failures of a loop as a whole are those of ``skydriver_common.runtime.loops``.
"""

from dataclasses import dataclass

URGENT_CAP_S, NO_CAPACITY_CAP_S, OUTAGE_CAP_S = 15.0, 60.0, 5.0
"""Longest pauses: of one urgent scan; of all others while there is no capacity; of these while Kubernetes is unavailable."""
NO_CAPACITY_RETRY_S = 300.0
"""A scan that found no capacity lets the others try first for so long, or until something ends. Source: REST contract 9.6."""
LAUNCH_CAP_S = 300.0
RESTART_AFTER_S = 1.0
"""The first restart is immediate, later ones wait 3 and 15 times this long."""
_FIRST_PAUSE_S, _UNAVAILABLE_CAP_S = 0.5, 30.0
_MAX_DOUBLINGS = 8


@dataclass(frozen=True, slots=True)
class Deferral:
    """How long launches wait. scan_s: this scan. others_s: all that are not urgent, None: they don't wait."""

    scan_s: float
    others_s: float | None


def launch_backoff_s(failures: int) -> float:
    """Return the pause after the launch of a scan failed by its own doing. failures: so far, this one included."""
    return min(LAUNCH_CAP_S, 4.0 ** min(failures, _MAX_DOUBLINGS))


def unavailable_backoff_s(tries: int, *, after_s: float) -> float:
    """Return the pause before one piece of work is tried again that something unavailable has kept from being done.

    after_s: what the fault asks for at least.
    """
    return max(after_s, _doubled(tries, _UNAVAILABLE_CAP_S))


def urgent_deferral(tries: int, *, after_s: float, has_no_capacity: bool) -> Deferral:
    """Return the pause of an urgent scan that could not be launched now: it is tried often, and holds up no other."""
    pause_s = _doubled(tries, URGENT_CAP_S)
    return Deferral(pause_s if has_no_capacity else max(after_s, pause_s), None)


def deferral(n_pauses: int, *, after_s: float, has_no_capacity: bool) -> Deferral:
    """Return the pauses after a scan that is not urgent could not be launched now: the next ones would meet the same.

    n_pauses: pauses of all in a row, this one included. after_s: what the fault asks for at least.
    """
    if has_no_capacity:
        return Deferral(NO_CAPACITY_RETRY_S, _doubled(n_pauses, NO_CAPACITY_CAP_S))
    pause_s = max(after_s, _doubled(n_pauses, OUTAGE_CAP_S))
    return Deferral(pause_s, pause_s)


def restart_pause_s(restarts: int, *, was_planned: bool) -> float:
    """Return the pause before a scanner server is restarted in place. restarts: without progress, this one included."""
    return 0.0 if was_planned else RESTART_AFTER_S * (4 ** (restarts - 1) - 1)


def _doubled(times: int, cap_s: float) -> float:
    return min(cap_s, _FIRST_PAUSE_S * 2.0 ** min(times, _MAX_DOUBLINGS))
