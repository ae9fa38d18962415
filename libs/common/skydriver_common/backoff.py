"""The one way to wait between attempts: pauses that grow with each failure, and are spread so that nobody returns together."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after failures in a row: ``first_s`` after the first one, ``factor`` times as long after each further one.

    The pause ends at ``cap_s`` and is spread over its upper half: replicas and scans that failed together do not return together.
    """

    first_s: float
    cap_s: float
    factor: float = 2.0

    def pause_s(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row, 1 or more."""
        whole_s = min(self.cap_s, self.first_s * self.factor ** min(max(failures - 1, 0), 30))
        return whole_s * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
