"""Times of the reconstructions so far, and what they promise for the rest. Pure; all times are Unix seconds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Summary:
    """Seconds."""

    mean: float
    median: float
    slowest: float
    fastest: float


def summarise(values: Sequence[float]) -> Summary:
    """values: at least one."""
    return Summary(statistics.fmean(values), statistics.median(values), max(values), min(values))


@dataclass
class Group:
    """The reconstructions of one nside, or all: how long the worker took, how long from sending to arrival, when they came."""

    worker_s: list[float] = field(default_factory=list)
    round_trip_s: list[float] = field(default_factory=list)
    first_sent_at: float = math.inf
    last_arrival_at: float = -math.inf

    def add(self, runtime_s: float, sent_at: float, arrived_at: float) -> None:
        self.worker_s.append(runtime_s)
        self.round_trip_s.append(max(0.0, arrived_at - sent_at))
        self.first_sent_at = min(self.first_sent_at, sent_at)
        self.last_arrival_at = max(self.last_arrival_at, arrived_at)


@dataclass(frozen=True)
class Prediction:
    """time_left_s of a scan that goes on as it has done; technique: in words."""

    time_left_s: float
    technique: str


class Statistics:
    """window_ratio, window_min: how much of the recent past a prediction looks at (share of all, at least so many)."""

    def __init__(self, *, window_ratio: float = 0.25, window_min: int = 400) -> None:
        self.all = Group()
        self.by_nside: dict[int, Group] = {}
        self.arrivals: list[float] = []
        self.first_worker_start_at = math.inf
        self._window_ratio = window_ratio
        self._window_min = window_min

    def add(self, nside: int, runtime_s: float, sent_at: float, arrived_at: float) -> None:
        """One new reconstruction, in order of arrival."""
        self.all.add(runtime_s, sent_at, arrived_at)
        self.by_nside.setdefault(nside, Group()).add(runtime_s, sent_at, arrived_at)
        # Not before it was sent: clocks of workers are not ours, only their durations are.
        self.first_worker_start_at = min(self.first_worker_start_at, max(sent_at, arrived_at - runtime_s))
        self.arrivals.append(arrived_at)

    def predict(self, total: int, now: float) -> Prediction:
        """When `total` reconstructions will be back, seen from `now`."""
        done = len(self.arrivals)
        window = max(self._window_min, int(done * self._window_ratio))
        if done <= window:
            spent, counted, technique = now - self.all.first_sent_at, done, "average over the whole run"
        else:
            spent, counted = now - self.arrivals[-window - 1], window
            technique = f"moving average over the last {window} reconstructions"
        return Prediction(max(0.0, spent) / max(1, counted) * max(0, total - done), technique)

    def timeline(self, total: int, started_at: float) -> dict[str, float]:
        """Share of the scan → seconds after its start when that share was back: the first one, then each tenth."""
        if not self.arrivals or total < 1:
            return {}
        shares = {f"{1 / total:.5f}": 1, **{f"{tenth / 10:.1f}": math.ceil(total * tenth / 10) for tenth in range(1, 11)}}
        reached = {share: count for share, count in shares.items() if count <= len(self.arrivals)}
        return {share: max(0.0, self.arrivals[count - 1] - started_at) for share, count in reached.items()}
