"""Health of a process over HTTP: is it alive, is it ready, what are its figures.

* `/healthz`: 200 as long as the event loop answers. Says nothing about servers elsewhere: restarting us does not repair them.
* `/readyz`: 200 when started, not stopping and every check passes; else 503 with the names of what is not ready.
* `/metrics`: the Prometheus text format.

Names of checks are all that is shown; reasons are in the log, which not everybody may read.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Self

import orjson
import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from skydriver_common.faults import TryLater
from skydriver_common.runtime.connections import ConnectionLimits, LimitedRunner, note_request
from skydriver_common.runtime.metrics import Metrics

__all__ = ["Check", "Health", "HealthServer"]

logger = structlog.get_logger(__name__)

Check = Callable[[], bool | Awaitable[bool]]
"""True when ready. May be asynchronous; it is asked at each probe, so it looks at a state rather than working it out."""

CHECK_LIMIT_S = 2.0
"""A check that takes longer counts as not ready; probers usually give up after a few seconds."""


_CONNECTIONS = 64
"""Probers and scrapers are few; more must not take the descriptors of the service."""
_IDLE_S = 15.0


class Health:
    """What makes this process ready. `started` and `stopping` are set by the runner, checks by the service."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.stopping = False
        self._checks: dict[str, Check] = {}
        self._failing: frozenset[str] = frozenset()

    def add(self, name: str, check: Check) -> None:
        """Add a condition of readiness. Raises ValueError when the name is taken."""
        if name in self._checks:
            raise ValueError(f"there is already a check named {name}")
        self._checks[name] = check

    async def not_ready(self) -> list[str]:
        """Names of what is not ready, in the order they were added; empty: ready."""
        if self.stopping:
            return ["stopping"]
        failing = [name for name, passes in (await self.checked()).items() if not passes]
        if frozenset(failing) != self._failing:  # once per change, not per probe
            self._failing = frozenset(failing)
            logger.info("readiness.changed", not_ready=failing)
        return failing if self.started.is_set() else ["starting", *failing]

    async def checked(self) -> dict[str, bool]:
        """Each condition, in the order they were added, and whether it holds now."""
        checks = dict(self._checks)  # a service that starts adds some meanwhile
        results = await asyncio.gather(*(self._passes(name, check) for name, check in checks.items()))
        return dict(zip(checks, results, strict=True))

    async def _passes(self, name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                result = check()
                return bool(await result if inspect.isawaitable(result) else result)
        except (TryLater, TimeoutError, OSError):
            return False
        except Exception:
            logger.exception("readiness.check-failed", check=name)
            return False


class HealthServer:
    """The HTTP side of `Health` and `Metrics`. Use as an asynchronous context manager; `port` is known inside."""

    def __init__(self, health: Health, metrics: Metrics, *, service: str, replica: str, host: str, port: int) -> None:
        self._health = health
        self._metrics = metrics
        self._identity = {"service": service, "replica": replica}
        self._host = host
        self.port = port
        app = web.Application()
        app.on_response_prepare.append(_noted)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._figures)
        self._runner = LimitedRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=1.0, keepalive_timeout=_IDLE_S
        )

    async def __aenter__(self) -> Self:
        """Raises OSError when the address cannot be used."""
        await self._runner.setup()
        self._runner.limits = ConnectionLimits(
            self._runner.server, most=_CONNECTIONS, most_per_address=_CONNECTIONS, first_request_s=_IDLE_S, refusal=b"{}"
        )
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _alive(self, _: web.Request) -> web.Response:
        return _json({"alive": True, **self._identity})

    async def _ready(self, _: web.Request) -> web.Response:
        missing = await self._health.not_ready()
        return _json({"ready": not missing, "not_ready": missing, **self._identity}, status=503 if missing else 200)

    async def _figures(self, _: web.Request) -> web.Response:
        started = self._health.started.is_set() and not self._health.stopping
        self._metrics.ready({"started": started, **await self._health.checked()})
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _noted(request: web.Request, _: web.StreamResponse) -> None:
    note_request(request)


def _json(content: dict[str, object], *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(content), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
