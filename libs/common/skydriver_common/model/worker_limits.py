"""How many workers a scan may ask for: one request must not drown EWMS for everyone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MAX_WORKERS_PER_SCAN = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """Most workers of one scan, in all clusters and with all additions together, and of one scan in single clusters."""

    per_scan: int = MAX_WORKERS_PER_SCAN
    per_cluster: Mapping[str, int] = field(default_factory=dict)

    def in_cluster(self, cluster: str) -> int:
        """The most workers of one scan in this cluster."""
        return min(self.per_scan, self.per_cluster.get(cluster, self.per_scan))

    def exceeded(self, workers: Iterable[tuple[str, int]]) -> list[str]:
        """What is too much, in words that name the limit; empty: nothing. workers: cluster and number, a cluster any number of times."""
        totals: dict[str, int] = {}
        for cluster, count in workers:
            totals[cluster] = totals.get(cluster, 0) + count
        found = [
            f"at most {self.per_cluster[cluster]} workers per scan in {cluster}"
            for cluster, total in totals.items()
            if cluster in self.per_cluster and total > self.per_cluster[cluster]
        ]
        if sum(totals.values()) > self.per_scan:
            found.append(f"at most {self.per_scan} workers per scan, all clusters and additions together")
        return found
