"""What every service that decides stands on: pool, bell, schedule, unit of work, broker, relay. Opened once, in one order."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import asyncpg
from aio_pika.exceptions import AMQPError
from faststream.rabbit import RabbitBroker

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect, make_broker
from skydriver_common.bus.relay import Relay
from skydriver_common.db import migrate
from skydriver_common.db.bell import DUE_CHANNEL, LOG_CHANNEL, Bell
from skydriver_common.db.pool import Listener, Pool, open_pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.db.translate import database_faults
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.runtime.loops import Pulse
from skydriver_common.runtime.service import Service, StartupProblem
from skydriver_common.runtime.settings import ServiceSettings

_RELAY_IDLE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """The opened parts. Register consumers on ``broker``, then call ``start_consuming``."""

    service: Service
    pool: Pool
    bell: Bell
    schedule: Schedule
    uow: UnitOfWork
    broker: RabbitBroker
    _due: dict[str, list[Callable[[], None]]]

    def wake_when_due(self, kinds: Iterable[str], pulse: Pulse) -> None:
        """Wake a loop when work of these kinds is put by anyone."""
        for kind in kinds:
            self._due.setdefault(kind, []).append(pulse.wake)

    async def start_consuming(self) -> None:
        """Declare the consumers' queues and begin; stopped in order with the service. Raises TryLater."""
        try:
            await self.broker.start()
        except (AMQPError, OSError, TimeoutError) as error:
            raise TryLater("the message broker can't be reached") from error
        self.service.on_stop(self.broker.stop)


async def open_foundation(service: Service, settings: ServiceSettings) -> Foundation:
    """Open pool, bus, bell, relay and schedule for a service named like its entry in ``WRITERS``.

    Raises TryLater when a server is away, StartupProblem when the database's schema does not fit.
    """
    database_url = settings.database_url.get_secret_value()
    pool = await open_service_pool(service, database_url)
    bell = Bell(pool)
    due: dict[str, list[Callable[[], None]]] = {}
    relay_pulse = Pulse()

    def on_due(kind: str) -> None:
        for wake in due.get(kind, ()) if kind else (wake for wakes in due.values() for wake in wakes):
            wake()

    bell.on_ring(LOG_CHANNEL, lambda _: relay_pulse.wake())
    bell.on_ring(DUE_CHANNEL, on_due)
    schedule = Schedule(pool, bell, holder=service.replica)
    await schedule.release_all()  # what a former life of this replica held when it was killed
    try:
        bus = await connect(settings.amqp_url.get_secret_value(), name=f"{service.name}-relay")
        async with bus.channel() as channel:
            await topology.declare(channel)
    except (AMQPError, OSError, TimeoutError) as error:
        raise TryLater("the message broker can't be reached") from error
    service.stack.push_async_callback(bus.close)
    relay = Relay(database_url, bus)
    service.stack.push_async_callback(relay.close)
    service.stack.push_async_callback(_quietly, schedule)
    listener = Listener(database_url, {LOG_CHANNEL: lambda _: relay_pulse.wake(), DUE_CHANNEL: on_due}, name=service.name)
    service.spawn("listener", listener.run(service.stopping))
    service.spawn("bell", bell.run(service.stopping))
    service.loop("relay", relay.step, idle_s=_RELAY_IDLE_S, pulse=relay_pulse)
    broker = make_broker(
        settings.amqp_url.get_secret_value(), stopping=service.stopping, handled=service.metrics.command_handled
    )
    service.ready_check("message broker", lambda: not bus.is_closed and bus.connected.is_set())
    return Foundation(
        service=service, pool=pool, bell=bell, schedule=schedule,
        uow=UnitOfWork(pool, bell, writer=service.name), broker=broker, _due=due,
    )  # fmt: skip


async def open_service_pool(service: Service, database_url: str, *, size: int = 10) -> Pool:
    """The service's pool, on a database whose schema fits. Raises TryLater, StartupProblem."""
    try:
        missing = await asyncio.to_thread(migrate.check, database_url)
        pool = await open_pool(database_url, name=service.name, size=size)
    except migrate.SchemaTooNew as error:
        raise StartupProblem(str(error)) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, migrate.Unreachable) as error:
        raise TryLater("the database can't be reached") from error
    if missing:
        raise StartupProblem(f"the database lacks the migration {missing[0]}: run `skydriver migrate` first")
    service.stack.push_async_callback(pool.close)

    async def answers() -> bool:
        with database_faults():  # a fault is an answer here, no error to be logged at each probe
            return bool(await pool.fetchval("SELECT true", timeout=1.5))

    service.ready_check("database", answers)
    return pool


async def _quietly(schedule: Schedule) -> None:
    """Give the leases back if that is possible; they end by themselves otherwise."""
    try:
        await schedule.release_all()
    except TryLater:
        return
