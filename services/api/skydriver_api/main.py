"""Wires the REST gateway together."""

import asyncio
from functools import partial

import aiohttp
import structlog
from aio_pika.abc import AbstractRobustConnection
from aiohttp import web

from skydriver_api.app import make_app
from skydriver_api.commands.blob_writer import BlobWriter
from skydriver_api.commands.client import CommandClient
from skydriver_api.deps import Deps
from skydriver_api.http.http_errors import error_body
from skydriver_api.http.limits import MemoryLimits, WeightedSemaphore
from skydriver_api.http.proxies import TRUSTED_PROXIES, TrustedProxies
from skydriver_api.http.route import MIB
from skydriver_api.images.catalogs import open_images
from skydriver_api.live.live_events import LiveEvents
from skydriver_api.live.viewer_hints import ViewerHints
from skydriver_api.reads.log_links import LogLinks
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_api.routes.events import HEARTBEAT_S
from skydriver_api.settings import ApiSettings
from skydriver_common.auth import Issuer, JwksFile, KeySource, OidcDiscovery, Role, RoleRule, TokenVerifier
from skydriver_common.blocking_calls import IsolatedResolver
from skydriver_common.bus import topology
from skydriver_common.db.notifier import Notifier
from skydriver_common.log.group_commit import recorded_reply
from skydriver_common.runtime.connections import ConnectionLimits, LimitedRunner, connection_cap
from skydriver_common.runtime.requests import KINDS
from skydriver_common.runtime.service import Service, StartupProblem, run
from skydriver_common.runtime.service_resources import open_bus, open_service_pool, retry_until_available
from skydriver_common.trust import client_context

logger = structlog.get_logger(__name__)

_QUERY_TIMEOUT_S = 10.0
"""A request whose query takes longer gets 503: most clients give up after as long."""

_CONNECTIONS = 20
_MAX_SEARCHES = 8
"""Of the connections, what searches may hold while their clients take their time; the rest serves everybody else."""
_REQUEST_BODY_BYTES = 202 * MIB
"""Of large request bodies in memory at once: two of the largest. A body exists up to twice: as received and packed, or packed and
on its way."""
_LARGE_RESPONSE_BYTES = 128 * MIB
"""Of responses above 1 MiB on their way to clients: one of the largest, or many smaller ones."""
_SMALL_RESPONSE_BYTES = 64 * MIB
"""Of smaller responses on their way: a thousand of 64 KiB."""

_KEY_PROPAGATION_S = 120.0
"""How long a token under a new key of the dispatcher may reach a gateway before the key does: a ConfigMap takes a minute or so."""
_EVENT_PAGE_BYTES = 64 * MIB
"""Of pages of events on their way into live streams."""
_FIRST_REQUEST_S = 10.0
_TOO_MANY_CONNECTIONS = "temporarily unavailable: too many connections"


def main() -> None:
    """Run the gateway until the process is asked to stop."""
    settings = ApiSettings.load()

    async def build(service: Service) -> None:
        pool = await open_service_pool(
            service,
            settings.database_url.get_secret_value(),
            size=_CONNECTIONS,
            command_timeout_s=_QUERY_TIMEOUT_S,
            must_write=False,
        )
        reads = ViewQueries(pool)
        timeouts = service.metrics.counter("skydriver_command_reply_timeouts")
        published = service.metrics.histogram("skydriver_bus_publish_duration_seconds").labels(topology.COMMAND_EXCHANGE.name)
        commands = CommandClient(
            partial(recorded_reply, pool), deadline_s=settings.command_timeout_s,
            on_timeout=lambda key: timeouts.labels(key).inc(), on_published=published.observe,
        )  # fmt: skip
        live = LiveEvents(
            reads.versions, max_streams=settings.max_streams, max_streams_per_token=settings.max_streams_per_token
        )
        service.ready_check("commands", lambda: commands.is_open)
        service.spawn("broker", _use_broker(service, settings, commands, live))
        service.loop("live.look", live.compare_versions, idle_s=HEARTBEAT_S)
        session = await service.stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=IsolatedResolver(), ssl=client_context()),
                timeout=aiohttp.ClientTimeout(total=10),
            )
        )
        try:
            images = open_images(settings.image_catalog, minimum=settings.minimum_image, session=session)
        except ValueError as error:
            raise StartupProblem(f"SKYDRIVER_IMAGE_CATALOG: {error}") from error
        log_links = LogLinks(
            dashboard_url=settings.logs_dashboard_url,
            namespace=settings.kubernetes_namespace,
            prometheus_url=settings.prometheus_url,
            session=session,
        )
        service.stack.push_async_callback(log_links.close)
        notifier = Notifier(pool)
        service.spawn("notifier", notifier.run(service.stopping))
        deps = Deps(
            reads=reads,
            blobs=BlobWriter(pool),
            commands=commands,
            images=images,
            live=live,
            log_links=log_links,
            viewer_hints=ViewerHints(notifier, reads),
            clusters=settings.clusters,
            worker_limits=settings.worker_limits,
            user_variables=settings.user_variables,
            searches=WeightedSemaphore(_MAX_SEARCHES, what="searches"),
            memory=MemoryLimits(
                request_bodies=WeightedSemaphore(_REQUEST_BODY_BYTES, what="large uploads"),
                large_responses=WeightedSemaphore(_LARGE_RESPONSE_BYTES, what="large downloads"),
                small_responses=WeightedSemaphore(_SMALL_RESPONSE_BYTES, what="responses to slow clients"),
            ),
            event_pages=WeightedSemaphore(_EVENT_PAGE_BYTES, what="pages of events", max_wait_s=HEARTBEAT_S),
            scan_token_grace_s=settings.scan_token_grace_s,
        )
        await _serve(service, settings, make_app(deps, _verifier(settings, session), service.metrics), live)

    run("api", settings, build)


def _verifier(settings: ApiSettings, session: aiohttp.ClientSession) -> TokenVerifier:
    keys: KeySource = (
        JwksFile(settings.auth_jwks_file)
        if settings.auth_jwks_file
        else OidcDiscovery(settings.auth_issuer, session, key_hosts=settings.key_hosts)
    )
    rules = [RoleRule.parse(Role.USER, settings.auth_user_claim), RoleRule.parse(Role.SYSTEM, settings.auth_system_claim)]
    issuers = [Issuer(settings.auth_issuer, keys, role_rules=tuple(rules))]
    if settings.scan_token_jwks_file:
        scan_keys = JwksFile(settings.scan_token_jwks_file, settle_s=_KEY_PROPAGATION_S)
        issuers.append(Issuer(settings.scan_token_issuer, scan_keys, scan_tokens_only=True))
    return TokenVerifier(issuers, audience=settings.auth_audience)


async def _use_broker(service: Service, settings: ApiSettings, commands: CommandClient, live: LiveEvents) -> None:
    """Connect in the background: reads need no broker, and are served without one."""

    async def connect() -> AbstractRobustConnection:
        bus = await open_bus(
            service, settings.amqp_url.get_secret_value(), name=service.name, probed=topology.COMMAND_EXCHANGE.name
        )
        await retry_until_available(partial(commands.open, bus))
        return bus

    connecting, stop = asyncio.create_task(connect()), asyncio.create_task(service.stopping.wait())
    try:
        await asyncio.wait({connecting, stop}, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            await live.listen(connecting.result(), service.stopping)
    finally:
        for task in (connecting, stop):
            task.cancel()
        await asyncio.gather(connecting, stop, return_exceptions=True)


async def _serve(service: Service, settings: ApiSettings, app: web.Application, live: LiveEvents) -> None:
    runner = LimitedRunner(
        app, answer=error_body, access_log=None, handle_signals=False, shutdown_timeout=5.0,
        keepalive_timeout=settings.http_idle_timeout_s,
    )  # fmt: skip
    faults = service.metrics.counter("skydriver_http_client_faults")
    for kind in KINDS:
        faults.labels(kind)
    runner.on_fault = lambda kind: faults.labels(kind).inc()
    refused = service.metrics.counter("skydriver_http_requests_refused")
    proxies = TrustedProxies(
        settings.proxy_networks, most_per_address=settings.http_max_connections_per_address,
        on_refused=lambda: refused.labels("address").inc(),
    )  # fmt: skip
    if settings.http_trusted_proxies:
        app[TRUSTED_PROXIES] = proxies
    await runner.setup()
    max_connections = connection_cap(settings.http_max_connections, service.descriptors)
    if max_connections < settings.http_max_connections:
        logger.warning(
            "connections.limited",
            max_connections=max_connections,
            wanted=settings.http_max_connections,
            descriptors=service.descriptors,
        )
    runner.limits = limits = ConnectionLimits(
        runner.server, most=max_connections, most_per_address=settings.http_max_connections_per_address, first_request_s=_FIRST_REQUEST_S,
        refusal=error_body(503, _TOO_MANY_CONNECTIONS), on_refused=lambda reason: refused.labels(reason).inc(),
        is_proxy=proxies.is_proxy,
    )  # fmt: skip
    service.metrics.show("skydriver_http_connections", lambda: limits.n_open)
    service.metrics.show("skydriver_live_streams", lambda: live.n_streams)
    service.on_stop(runner.cleanup)
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port, backlog=1024).start()
    except OSError as error:
        raise StartupProblem(
            f"SKYDRIVER_HTTP_PORT: cannot listen on {settings.http_host}:{settings.http_port}: {error.strerror}"
        ) from error
