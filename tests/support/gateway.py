"""The REST gateway in the test's own process: real servers behind it, tokens for everybody in front."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from skydriver_api.app import make_app
from skydriver_api.commands.blob_writer import BlobWriter
from skydriver_api.commands.client import CommandClient
from skydriver_api.deps import Deps
from skydriver_api.http.http_errors import error_body
from skydriver_api.http.limits import MemoryLimits, WeightedSemaphore
from skydriver_api.http.proxies import TRUSTED_PROXIES, TrustedProxies
from skydriver_api.images.resolver import EmbeddedCatalog, ImageResolver
from skydriver_api.live.live_events import LiveEvents
from skydriver_api.live.viewer_hints import ViewerHints
from skydriver_api.reads.log_links import LogLinks
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.auth import Principal, Role, TokenVerifier
from skydriver_common.bus.broker import connect
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.log.group_commit import recorded_reply
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_common.runtime.connections import LimitedRunner


@dataclass
class LocalGateway:
    """url: where it listens. session: speaks to it. deps: what it works with."""

    url: str
    host: str
    port: int
    session: aiohttp.ClientSession
    pool: Pool
    deps: Deps


class _Everybody:
    """Believes any token, and gives its bearer both roles."""

    async def verify(self, token: str) -> Principal:
        return Principal("somebody", "test", frozenset(Role))


class _Server(TestServer):
    """Behind the protocol of the real process. Faults of clients are counted in ``FAULTS``."""

    async def _make_runner(self, **options: Any) -> LimitedRunner:
        runner = LimitedRunner(self.app, answer=error_body, **options | {"handler_cancellation": False, "access_log": None})
        runner.on_fault = lambda kind: FAULTS.update([kind])
        return runner


FAULTS = Counter[str]()


@asynccontextmanager
async def local_gateway(
    database: str,
    amqp_url: str,
    *,
    connections: int = 20,
    deadline_s: float = 1.0,
    verifier: TokenVerifier | None = None,
    request_bodies: WeightedSemaphore | None = None,
    large_responses: WeightedSemaphore | None = None,
    small_responses: WeightedSemaphore | None = None,
    proxies: TrustedProxies | None = None,
    **changes: Any,
) -> AsyncIterator[LocalGateway]:
    """A gateway on these servers. verifier: unless given, everybody may do everything. changes: of Deps."""
    pool = await open_pool(database, name="test-gateway", size=connections, command_timeout_s=10)
    bus = await connect(amqp_url, name="test-gateway")
    commands = CommandClient(partial(recorded_reply, pool), deadline_s=deadline_s)
    await commands.open(bus)
    reads = ViewQueries(pool)
    live, stopping = LiveEvents(reads.versions), asyncio.Event()
    listening = asyncio.create_task(live.listen(bus, stopping))
    deps = Deps(
        **{
            "reads": reads, "blobs": BlobWriter(pool), "commands": commands, "live": live, "log_links": LogLinks(),
            "images": ImageResolver(EmbeddedCatalog(), minimum="v4.0.0"), "viewer_hints": ViewerHints(Notifier(pool), reads),
            "clusters": {"osg": 100}, "worker_limits": WorkerLimits(),
            "user_variables": UserVariables(), "searches": WeightedSemaphore(8, what="searches"),
            "memory": MemoryLimits(
                request_bodies=request_bodies or WeightedSemaphore(2**30, what="large uploads"),
                large_responses=large_responses or WeightedSemaphore(2**30, what="large downloads"),
                small_responses=small_responses or WeightedSemaphore(2**30, what="responses"),
            ),
            "event_pages": WeightedSemaphore(2**26, what="pages of events"),
            "scan_token_grace_s": 600.0, **changes,
        }
    )  # fmt: skip
    app: web.Application = make_app(deps, verifier or cast(TokenVerifier, _Everybody()))
    if proxies is not None:
        app[TRUSTED_PROXIES] = proxies
    async with _Server(app) as server:
        headers = {"Authorization": "Bearer x"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            assert server.port is not None
            yield LocalGateway(str(server.make_url("")).rstrip("/"), server.host, server.port, session, pool, deps)
    stopping.set()
    await listening
    await bus.close()
    await pool.close()
