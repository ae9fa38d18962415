"""What every service that decides needs: pool, notifier, schedule, unit of work, broker, relay. Opened once, in one order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import structlog
from aio_pika.abc import AbstractRobustConnection
from faststream.rabbit import RabbitBroker

from skydriver_common.backoff import Backoff
from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect, make_broker
from skydriver_common.bus.errors import broker_faults
from skydriver_common.bus.relay import Relay
from skydriver_common.bus.write_probe import BUS_PROBE_INTERVAL_S, BusWriteProbe
from skydriver_common.db import migrate
from skydriver_common.db.clock import ClockComparison
from skydriver_common.db.errors import database_faults
from skydriver_common.db.notifier import DUE_CHANNEL, LOG_CHANNEL, Notifier
from skydriver_common.db.pool import Connection, Listener, Pool, open_pool
from skydriver_common.db.pooler import SharedSessions
from skydriver_common.db.schedule import Schedule
from skydriver_common.db.write_probe import PROBE_INTERVAL_S, WriteProbe
from skydriver_common.faults import TryLater, reason_of
from skydriver_common.log.another_server import refuse_log_of_another_server
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.runtime.connection_figures import PoolFigures, show_bus, show_pool
from skydriver_common.runtime.loops import LoopSignals
from skydriver_common.runtime.service import Service, StartupProblem
from skydriver_common.runtime.settings import ServiceSettings

logger = structlog.get_logger(__name__)

_RELAY_IDLE_S = 5.0
_RETRY = Backoff(first_s=0.2, cap_s=2.0)
_CLOCK_COMPARISON_INTERVAL_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResources:
    """The opened parts. Register consumers on ``broker``, then call ``start_consuming``. bus: for what is not consuming."""

    service: Service
    pool: Pool
    notifier: Notifier
    schedule: Schedule
    uow: UnitOfWork
    broker: RabbitBroker
    bus: AbstractRobustConnection
    _due: dict[str, list[Callable[[], None]]]

    def wake_when_due(self, kinds: Iterable[str], pulse: LoopSignals) -> None:
        """Wake a loop when work of these kinds is put by anyone."""
        for kind in kinds:
            self._due.setdefault(kind, []).append(pulse.wake)

    async def start_consuming(self) -> None:
        """Declare the consumers' queues and begin; stopped in order with the service. Raises TryLater."""
        with broker_faults():
            await self.broker.start()
        self.service.on_stop(self.broker.stop)
        self.service.ready_check("consumers", partial(self.broker.ping, 1.0))
        bus = await self.broker.connect()
        if isinstance(bus, AbstractRobustConnection):
            show_bus(self.service.metrics, bus, "consume")


async def retry_until_available(open_it: Callable[[], Awaitable[T]]) -> T:
    """What opening gives, tried again while something is away.

    A service that is started during an outage waits for its end, alive and not ready: ending with an error would let its
    supervisor wait longer each time, up to minutes past the end of the outage.
    """
    failures = 0
    while True:
        try:
            return await open_it()
        except TryLater as fault:
            failures += 1
            pause_s = _RETRY.pause_s(failures)
            logger.warning("startup.retrying", what=fault.what, reason=reason_of(fault), retry_in_s=round(pause_s, 2))
        await asyncio.sleep(pause_s)


async def open_bus(
    service: Service, amqp_url: str, *, name: str, probed: str = topology.STOP_EXCHANGE.name
) -> AbstractRobustConnection:
    """A connection to the broker, with what must exist there declared; waits for a broker that is away.

    probed: the exchange by which it is found out whether the broker takes messages; this service may write to it.
    """

    async def open_it() -> AbstractRobustConnection:
        bus = await connect(amqp_url, name=name)
        try:
            with broker_faults():
                async with bus.channel() as channel:
                    await topology.declare(channel)
        except BaseException:
            await bus.close()
            raise
        return bus

    opened: list[AbstractRobustConnection] = []
    service.ready_check("message broker", lambda: any(not bus.is_closed and bus.connected.is_set() for bus in opened))
    bus = await retry_until_available(open_it)
    opened.append(bus)
    show_bus(service.metrics, bus, "publish")
    shown = service.metrics.gauge("skydriver_bus_writable")
    tried: list[bool] = []

    def on_tried(succeeded: bool) -> None:
        tried[:] = [succeeded]
        shown.set(succeeded)

    service.ready_check("bus-blocked", lambda: tried != [False])
    service.loop("bus-probe", BusWriteProbe(bus, probed, on_tried=on_tried).step, idle_s=BUS_PROBE_INTERVAL_S)
    service.stack.push_async_callback(bus.close)
    return bus


async def open_resources(service: Service, settings: ServiceSettings) -> ServiceResources:
    """Open pool, bus, notifier, relay and schedule for a service named like its entry in ``EVENT_OWNERS``; wait for servers that are away.

    Raises StartupProblem when the database's schema does not fit.
    """
    database_url = settings.database_url.get_secret_value()
    pool = await open_service_pool(service, database_url, check=refuse_log_of_another_server)
    notifier = Notifier(pool)
    due: dict[str, list[Callable[[], None]]] = {}
    relay_pulse = LoopSignals()

    def on_due(kind: str) -> None:
        for wake in due.get(kind, ()) if kind else (wake for wakes in due.values() for wake in wakes):
            wake()

    notifier.on_notify(LOG_CHANNEL, lambda _: relay_pulse.wake())
    notifier.on_notify(DUE_CHANNEL, on_due)
    schedule = Schedule(pool, notifier, holder=service.replica)
    await retry_until_available(schedule.release_all)  # what a former life of this replica held when it was killed
    bus = await open_bus(service, settings.amqp_url.get_secret_value(), name=f"{service.name}-relay")
    published = service.metrics.histogram("skydriver_bus_publish_duration_seconds")
    relay = Relay(
        database_url, bus, on_lag=service.metrics.relay_lag,
        on_published=lambda exchange, seconds: published.labels(exchange).observe(seconds),
    )  # fmt: skip
    service.stack.push_async_callback(relay.close)
    service.stack.push_async_callback(close_ignoring_errors, schedule)
    callbacks = {LOG_CHANNEL: lambda _: relay_pulse.wake(), DUE_CHANNEL: on_due}
    listener = Listener(database_url, callbacks, name=service.name, own=notifier.processes)
    service.spawn("listener", listener.run(service.stopping))
    service.spawn("notifier", notifier.run(service.stopping))
    service.loop("relay", relay.step, idle_s=_RELAY_IDLE_S, pulse=relay_pulse)
    broker = make_broker(
        settings.amqp_url.get_secret_value(), stopping=service.stopping, handled=service.metrics.command_handled,
        dead_lettered=service.metrics.message_dead_lettered,
    )  # fmt: skip
    return ServiceResources(
        service=service, pool=pool, notifier=notifier, schedule=schedule,
        uow=UnitOfWork(
            pool, notifier, writer=service.name, on_appended=service.metrics.events_appended, on_ended=service.metrics.scan_ended
        ),
        broker=broker, bus=bus, _due=due,
    )  # fmt: skip


async def open_service_pool(
    service: Service, database_url: str, *, size: int = 10, command_timeout_s: float = 30.0,
    check: Callable[[Connection], Awaitable[None]] | None = None, must_write: bool = True,
) -> Pool:  # fmt: skip
    """The service's pool, on a database whose schema fits; waits for one that is away. Raises StartupProblem.

    check: of each new connection, see ``open_pool``. must_write: the service is not ready while the database takes no writes.
    """

    async def open_it() -> Pool:
        try:
            with database_faults():
                missing = await asyncio.to_thread(migrate.check, database_url)
                if missing:
                    raise StartupProblem(
                        f"the database schema is out of date (migration {missing[0]} is missing); run `skydriver migrate`"
                    )
                return await open_pool(
                    database_url, name=service.name, size=size, command_timeout_s=command_timeout_s, check=check,
                    observer=PoolFigures(service.metrics, service.name),
                )  # fmt: skip
        except migrate.SchemaTooNew as error:
            raise StartupProblem(f"{error}: start this service from that release") from error
        except SharedSessions as error:
            raise StartupProblem(f"SKYDRIVER_DATABASE_URL: {error}") from error
        except migrate.Unreachable as error:
            raise TryLater("the database is unreachable") from error

    service.metrics.gauge("skydriver_build_info").labels(version("skydriver"), migrate.known_migrations()[-1].name).set(1)
    pool = await retry_until_available(open_it)
    show_pool(service.metrics, pool, service.name)
    service.stack.push_async_callback(pool.close)

    async def answers() -> bool:
        with database_faults():  # a fault is an answer here, no error to be logged at each probe
            return bool(await pool.fetchval("SELECT true", timeout=1.5))

    service.ready_check("database", answers)
    comparison = ClockComparison(pool, on_compared=service.metrics.clock_compared)
    await retry_until_available(comparison.step)
    service.loop("clock", comparison.step, idle_s=_CLOCK_COMPARISON_INTERVAL_S)
    writable = service.metrics.gauge("skydriver_database_writable")
    tried: list[bool] = []

    def on_tried(succeeded: bool) -> None:
        tried[:] = [succeeded]
        writable.set(succeeded)

    if must_write:
        service.ready_check("database-writes", lambda: tried != [False])
    service.loop("write-probe", WriteProbe(pool, on_tried=on_tried).step, idle_s=PROBE_INTERVAL_S)
    return pool


async def close_ignoring_errors(schedule: Schedule) -> None:
    """Give the leases back if that is possible; they end by themselves otherwise."""
    try:
        await schedule.release_all()
    except TryLater:
        return
