"""Where the log of a scan's scanner server can be seen. Source: REST contract 8.7.

The end of a log is looked up in Prometheus in the background: a link without its time window is better than a slow response.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import quote

import aiohttp
import orjson
import structlog

from skydriver_common.model.ids import ScanId, created_at
from skydriver_common.payloads.read_limited import read_limited

logger = structlog.get_logger(__name__)

_DAY_S = 24 * 3600.0
_CACHE_TTL_S = 15 * 60.0
_MAX_CACHED_ENDS = 10_000
_MAX_CONCURRENT_LOOKUPS = 16
_QUERY_TIMEOUT_S = 5.0
_MAX_RESPONSE_BYTES = 4 * 1024 * 1024


class LogLinks:
    """Makes the links. dashboard_url: has a query part already; empty: there are no links. prometheus_url: empty: no windows."""

    def __init__(
        self,
        *,
        dashboard_url: str = "",
        namespace: str = "",
        prometheus_url: str = "",
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dashboard_url = dashboard_url
        self._namespace = namespace
        self._prometheus_url = prometheus_url.rstrip("/")
        self._session = session
        self._clock = clock
        self._ends: OrderedDict[ScanId, tuple[float, float | None]] = OrderedDict()
        self._lookups: dict[ScanId, asyncio.Task[None]] = {}

    @property
    def has_windows(self) -> bool:
        """Whether the end of a log can be looked up at all."""
        return bool(self._dashboard_url and self._prometheus_url and self._session)

    def url(self, scan_id: ScanId) -> str | None:
        """Return the link, with a time window if the end is known; None without a dashboard."""
        if not self._dashboard_url:
            return None
        namespace, container = quote(self._namespace, safe=""), quote(_container(scan_id), safe="")
        link = f"{self._dashboard_url}&var-namespace={namespace}&var-container={container}"
        _, end = self._ends.get(scan_id, (0.0, None))
        return link if end is None else f"{link}&from={int((end - 3600) * 1000)}&to={int(end * 1000)}"

    def is_due(self, scan_id: ScanId) -> bool:
        """Whether to look up the end of this log; the caller then reads when its scan began."""
        known = self._ends.get(scan_id)
        return (
            self.has_windows
            and self._clock() >= created_at(ScanId(scan_id)) + _DAY_S
            and scan_id not in self._lookups
            and (known is None or self._clock() >= known[0] + _CACHE_TTL_S)
        )

    def lookup_of(self, scan_id: ScanId) -> asyncio.Task[None] | None:
        """Return the running look-up, if there is one."""
        return self._lookups.get(scan_id)

    def start_lookup(self, scan_id: ScanId, started: float) -> asyncio.Task[None] | None:
        """Start to look up the end of the log, unless it is known, too early, or too many look-ups are running.

        started: Unix seconds. The task never raises; callers may wait for it for as long as they like.
        """
        now = self._clock()
        known = self._ends.get(scan_id)
        if not self.has_windows or now < started + _DAY_S or (known is not None and now < known[0] + _CACHE_TTL_S):
            return None
        if scan_id not in self._lookups and len(self._lookups) < _MAX_CONCURRENT_LOOKUPS:
            task = asyncio.create_task(self._look_up(scan_id, started))
            self._lookups[scan_id] = task
            task.add_done_callback(lambda _: self._lookups.pop(scan_id, None))
        return self._lookups.get(scan_id)

    async def close(self) -> None:
        """Cancel all look-ups."""
        tasks = list(self._lookups.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, scan_id: ScanId, started: float) -> None:
        try:
            end = await self._last_running_at(scan_id, started)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            logger.warning("logs.end-not-found", scan_id=scan_id, error=type(error).__name__)
            _, end = self._ends.get(scan_id, (0.0, None))  # what was found before is still true
        self._ends[scan_id] = (self._clock(), end)
        self._ends.move_to_end(scan_id)
        while len(self._ends) > _MAX_CACHED_ENDS:
            self._ends.popitem(last=False)

    async def _last_running_at(self, scan_id: ScanId, started: float) -> float | None:
        """Return the last time at which Prometheus saw the container running, Unix seconds."""
        assert self._session is not None
        async with self._session.get(
            f"{self._prometheus_url}/api/v1/query_range",
            params={
                "query": f'kube_pod_container_status_running{{container="{_container(scan_id)}"}}',
                "start": f"{started:.0f}",
                "end": f"{started + _DAY_S:.0f}",
                "step": "60",
            },
            timeout=aiohttp.ClientTimeout(total=_QUERY_TIMEOUT_S),
            allow_redirects=False,
        ) as response:
            response.raise_for_status()
            found = orjson.loads(await read_limited(response, _MAX_RESPONSE_BYTES))
        times = [float(point[0]) for series in found["data"]["result"] for point in series["values"]]
        return max(times, default=None)


def _container(scan_id: ScanId) -> str:
    return f"skyscan-server-{scan_id}"
