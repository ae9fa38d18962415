"""Whether a difference between database and cluster is plausible, or one of the two is not the one we think it is. Pure.

A rollout with another instance name or namespace sees no Job of any running scan; a database that is empty, or restored from an old
backup, knows no scan of any running Job. To act on that at once would end everything that runs.
"""

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum, auto

from skydriver_common.model.ids import ScanId

MAX_DIVERGENCE, MAX_DIVERGENCE_SHARE = 3, 0.5
"""Up to so many scans may differ without a second look. From so many on, and more than such a share of all, the difference is more
likely a mistake of ours."""


class Divergence(Enum):
    """How much database and cluster differ.

    SMALL: act. LARGE: act when a second look shows it, too. IMPLAUSIBLE: one of the two is probably the wrong one.
    """

    SMALL = auto()
    LARGE = auto()
    IMPLAUSIBLE = auto()


@dataclass(frozen=True, slots=True)
class DivergenceHistory:
    """What the looks before have shown. Times are seconds of one clock, None: not the case.

    since: when it was no longer small. implausible_since: when it became implausible. persistent: scans that every look since
    then has shown.
    """

    since: float | None = None
    implausible_since: float | None = None
    persistent: frozenset[ScanId] = frozenset()


@dataclass(frozen=True, slots=True)
class DivergenceVerdict:
    """What one look means. actionable: scans that may be acted on. history: to be passed to the next look."""

    divergence: Divergence
    is_confirmed: bool
    actionable: frozenset[ScanId]
    history: DivergenceHistory


def classify_divergence(number: int, total: int) -> Divergence:
    """Return what it means that ``number`` of ``total`` scans differ between database and cluster."""
    if number >= MAX_DIVERGENCE and number > total * MAX_DIVERGENCE_SHARE:
        return Divergence.IMPLAUSIBLE
    return Divergence.LARGE if number > MAX_DIVERGENCE else Divergence.SMALL


def judge_divergence(
    history: DivergenceHistory, differing: Set[ScanId], *, total: int, now: float, confirm_s: float, limit_s: float | None
) -> DivergenceVerdict:
    """Judge that these scans, of ``total``, differ now.

    confirm_s: a large difference is acted on after so long, for the scans that every look has shown. limit_s: so is an implausible
    one after so long; None: never; 0: everything is acted on at once.
    """
    found = frozenset(differing)
    divergence = Divergence.SMALL if limit_s == 0 else classify_divergence(len(found), total)
    if divergence is Divergence.SMALL:
        return DivergenceVerdict(divergence, True, found, DivergenceHistory())
    since = now if history.since is None else history.since
    persistent = found if history.since is None else history.persistent & found
    implausible_since = None
    if divergence is Divergence.LARGE:
        is_confirmed = now - since >= confirm_s
    else:
        implausible_since = now if history.implausible_since is None else history.implausible_since
        is_confirmed = limit_s is not None and now - implausible_since >= limit_s
    if is_confirmed:
        return DivergenceVerdict(divergence, True, persistent, DivergenceHistory())
    return DivergenceVerdict(divergence, False, frozenset(), DivergenceHistory(since, implausible_since, persistent))
