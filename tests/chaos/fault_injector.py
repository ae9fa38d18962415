"""The fault injector: a plan of faults that follows from the seed alone, carried out, and how long each took to recover from."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import aio_pika
import aiohttp
import asyncpg

from skydriver_common.bus import topology
from tests.chaos import poison
from tests.chaos.environment import BROKER, DATABASE, ChaosEnvironment, faketime
from tests.support.hung_folder import hung_folder
from tests.support.waiting import pause

RECOVERY_LIMIT_S = 300.0
"""Until everything is ready again; other faults come meanwhile, and the machine may be slow."""
_VICTIM_LIMIT_S = 30.0
_GUESTS = ("api", "progress", "ewms_bridge")
"""Services of which one more replica may come and go: not the dispatcher, whose local launcher wants the work folder to itself."""
_CLOCKS = ("clock +120 s", "clock -120 s")
_EVENT_QUEUES = tuple(
    topology.event_queue(consumer, event.type).name for consumer, events in topology.EVENT_CONSUMERS.items() for event in events
)
_SERVICES = ("api", "api-2", "dispatcher", "progress", "progress-2", "ewms_bridge", "ewms_bridge-2", "sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """at_s: after the start. length_s: how long it is kept up; 0: it is over at once."""

    at_s: float
    kind: str
    victim: str
    length_s: float = 0.0

    def __str__(self) -> str:
        kept = f" for {self.length_s:.1f} s" if self.length_s else ""
        return f"{self.at_s:6.1f} s  {self.kind} {self.victim}{kept}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a fault. recovery_s: from its end until everything is ready and a write is taken; None: never.

    hit: False when there was no victim to be found.
    """

    fault: Fault
    hit: bool = True
    recovery_s: float | None = None
    note: str = ""


def plan(seed: str, faults: int, duration_s: float, *, long: bool, only: str = "") -> list[Fault]:
    """So many faults at random moments. long: also those that take half a minute to get over. only: of this kind alone.

    Raises ValueError for an unknown kind.
    """
    rng = random.Random(f"{seed}/saboteur")
    makers: list[tuple[float, Callable[[float], Fault]]] = [
        (6, lambda at: Fault(at_s=at, kind="kill", victim=rng.choice(_SERVICES))),
        (2, lambda at: Fault(at_s=at, kind="terminate", victim=rng.choice(_SERVICES))),
        (4, lambda at: Fault(at_s=at, kind="freeze", victim=rng.choice(_SERVICES), length_s=rng.uniform(0.5, 6))),
        (1, lambda at: Fault(at_s=at, kind="freeze", victim=rng.choice((DATABASE, BROKER)), length_s=rng.uniform(0.5, 5))),
        (2, lambda at: Fault(at_s=at, kind="cut", victim=rng.choice((DATABASE, BROKER)))),
        (1, lambda at: Fault(at_s=at, kind="stall", victim=rng.choice((DATABASE, BROKER)), length_s=rng.uniform(0.5, 5))),
        (1, lambda at: Fault(at_s=at, kind="restart fast", victim=DATABASE, length_s=rng.uniform(0, 2))),
        (1, lambda at: Fault(at_s=at, kind="restart immediate", victim=DATABASE, length_s=rng.uniform(0, 2))),
        (0.5, lambda at: Fault(at_s=at, kind="restart killed", victim=DATABASE, length_s=rng.uniform(0, 2))),
        (0.7, lambda at: Fault(at_s=at, kind="restart", victim=BROKER, length_s=rng.uniform(0, 2))),
        (1, lambda at: Fault(at_s=at, kind="restart killed", victim=BROKER, length_s=rng.uniform(0, 2))),
        (1.5, lambda at: Fault(at_s=at, kind="kill a scanner", victim=f"{rng.random():.6f}")),
        (1, lambda at: Fault(at_s=at, kind="read-only", victim=DATABASE, length_s=rng.uniform(1, 6))),
        (2, lambda at: Fault(at_s=at, kind="drop deliveries", victim=rng.choice(_EVENT_QUEUES), length_s=rng.uniform(0.5, 3))),
        (1, lambda at: Fault(at_s=at, kind="poison", victim="scanners' exchange")),
    ]
    if long:
        makers += [
            (0.4, lambda at: Fault(at_s=at, kind="restart fast", victim=DATABASE, length_s=30)),
            (0.4, lambda at: Fault(at_s=at, kind="restart", victim=BROKER, length_s=30)),
            (0.4, lambda at: Fault(at_s=at, kind="stall", victim=rng.choice((DATABASE, BROKER)), length_s=rng.uniform(10, 30))),
            (0.5, lambda at: Fault(at_s=at, kind="freeze", victim=rng.choice(_SERVICES), length_s=rng.uniform(10, 40))),
            (0.4, lambda at: Fault(at_s=at, kind="forgotten transaction", victim=DATABASE)),
            (0.5, lambda at: Fault(at_s=at, kind="kill everything", victim="all services")),
            (0.4, lambda at: Fault(at_s=at, kind="read-only", victim=DATABASE, length_s=rng.uniform(10, 30))),
            (0.7, lambda at: Fault(at_s=at, kind="promote the standby", victim=DATABASE)),
            (1, lambda at: Fault(at_s=at, kind="hung image folder", victim="api", length_s=rng.uniform(5, 20))),
            (1, lambda at: Fault(at_s=at, kind="release before", victim=rng.choice(_GUESTS), length_s=rng.uniform(5, 20))),
            (1, lambda at: Fault(at_s=at, kind=rng.choice(_CLOCKS), victim=rng.choice(_GUESTS), length_s=rng.uniform(10, 20))),
        ]
    if only:
        makers = [(weight, make) for weight, make in makers if make(0.0).kind == only]
        if not makers:
            raise ValueError(f"there is no fault called {only!r}")
    moments = sorted(rng.uniform(0, duration_s) for _ in range(faults))
    weights = [weight for weight, _ in makers]
    return [rng.choices(makers, weights)[0][1](round(at, 2)) for at in moments]


class FaultInjector:
    """Carries a plan out. One fault at a time per victim; several victims may suffer at once."""

    def __init__(
        self,
        field: ChaosEnvironment,
        session: aiohttp.ClientSession,
        probe: Callable[[], Awaitable[bool]],
        extra_scan: Callable[[], Awaitable[str]],
        say: Callable[[str], None],
    ) -> None:
        """probe: whether a write is taken now. extra_scan: requests a scan that no scanner reports on, "" when it can't be had."""
        self._field = field
        self._session = session
        self._probe = probe
        self._extra_scan = extra_scan
        self._say = say
        self._held: dict[str, asyncio.Lock] = {}
        self.outcomes: list[Outcome] = []

    async def carry_out(self, faults: list[Fault]) -> None:
        """All faults, and the recovery from each."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await pause(max(0.0, began + fault.at_s - time.monotonic()))
                outcome = Outcome(fault=fault)
                self.outcomes.append(outcome)
                group.create_task(self._one(fault, outcome))

    async def _one(self, fault: Fault, outcome: Outcome) -> None:
        async with self._held.setdefault(fault.victim, asyncio.Lock()):
            self._say(str(fault))
            takes_servers_away = fault.victim in (DATABASE, BROKER)
            try:
                with self._field.outages.counting() if takes_servers_away else nullcontext():
                    replaced = await self._strike_once_it_is_there(fault)
            except ProcessLookupError:
                outcome.hit = False
                return
            except AssertionError as error:
                outcome.note = str(error)
                return
            over = time.monotonic()
        while time.monotonic() - over < RECOVERY_LIMIT_S:
            if not replaced() or await self._field.not_ready(self._session) or not await self._probe():
                await pause(0.1)
                continue
            outcome.recovery_s = time.monotonic() - over
            return
        missing = await self._field.not_ready(self._session)
        outcome.note = f"not recovered within {RECOVERY_LIMIT_S:g} s; not ready: {', '.join(missing) or 'nothing'}"

    async def _strike_once_it_is_there(self, fault: Fault) -> Callable[[], bool]:
        """Strike; a victim that is down is waited for. Raises ProcessLookupError when it does not come."""
        deadline = time.monotonic() + _VICTIM_LIMIT_S
        while True:
            try:
                return await self._strike(fault)
            except ProcessLookupError:
                if time.monotonic() > deadline:
                    raise
                await pause(0.1)

    async def _strike(self, fault: Fault) -> Callable[[], bool]:
        """Do it; the answer says whether its victim has been replaced since."""
        match fault.kind:
            case "kill" | "terminate":
                return self._end(fault.victim, signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
            case "kill everything":
                replaced = [self._end(name, signal.SIGKILL) for name in _SERVICES if self._is_there(name)]
                return lambda: all(each() for each in replaced)
            case "kill a scanner":
                self._kill_a_scanner(float(fault.victim))
            case "freeze":
                await self._freeze(fault)
            case "cut":
                self._field.proxies[fault.victim].cut()
            case "stall":
                self._field.proxies[fault.victim].stall()
                await pause(fault.length_s)
                self._field.proxies[fault.victim].flow()
            case "forgotten transaction":
                await self._forget_a_transaction()
            case "read-only":
                await self._turn_read_only(fault.length_s)
            case "promote the standby":
                await self._field.promote()
            case "drop deliveries":
                await self._drop_deliveries(fault)
            case "poison":
                await self._poison()
            case "release before":
                async with self._field.guest(fault.victim, is_of_the_release_before=True):
                    await pause(fault.length_s)
            case "hung image folder":
                await self._hang_the_images(fault.length_s)
            case "clock +120 s" | "clock -120 s":
                await self._step_a_clock(fault)
            case _:
                await self._restart(fault)
        return lambda: True

    def _is_there(self, service: str) -> bool:
        return self._field.identity(service) is not None

    def _end(self, service: str, sig: signal.Signals) -> Callable[[], bool]:
        who = self._field.identity(service)
        if who is None:
            raise ProcessLookupError
        os.kill(who.pid, sig)
        return lambda: self._field.identity(service) not in (None, who)

    async def _freeze(self, fault: Fault) -> None:
        if fault.victim in (DATABASE, BROKER):
            frozen = self._field.server_processes(fault.victim)
        else:
            who = self._field.identity(fault.victim)
            if who is None:
                raise ProcessLookupError
            frozen = [who.pid]
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            await pause(fault.length_s)
        finally:
            for pid in frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _restart(self, fault: Fault) -> None:
        how = {
            (DATABASE, "restart fast"): signal.SIGINT, (DATABASE, "restart immediate"): signal.SIGQUIT,
            (BROKER, "restart"): signal.SIGTERM,
        }.get((fault.victim, fault.kind), signal.SIGKILL)  # fmt: skip
        if fault.victim == DATABASE:
            await self._field.stop_database(how)
            await pause(fault.length_s)
            await self._field.start_database()
        else:
            await self._field.stop_broker(how)
            await pause(fault.length_s)
            await self._field.start_broker()

    def _kill_a_scanner(self, which: float) -> None:
        living = sorted(self._field.work_dir.glob("*/scanner.pid.json"))
        if not living:
            raise ProcessLookupError
        from skydriver_common import process_identity

        who = process_identity.read(living[int(which * len(living))])
        if who is None or not process_identity.is_alive(who):
            raise ProcessLookupError
        os.kill(who.pid, signal.SIGKILL)

    async def _turn_read_only(self, length_s: float) -> None:
        try:
            await self._field.set_read_only(is_read_only=True)
            await pause(length_s)
        finally:
            while True:  # whatever else happens to the server meanwhile: this fault ends
                try:
                    await self._field.set_read_only(is_read_only=False)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await pause(0.2)
                else:
                    return

    async def _drop_deliveries(self, fault: Fault) -> None:
        """For a while no event of one kind reaches its consumer: published, confirmed, and gone."""
        pattern = fault.victim.split(".", 3)[3]
        while True:
            try:
                async with await aio_pika.connect(self._field.amqp_url, timeout=10) as connection:
                    channel = await connection.channel()
                    queue = await channel.get_queue(fault.victim, ensure=False)
                    await queue.unbind(topology.EVENT_EXCHANGE.name, pattern)
                    await pause(fault.length_s)
                    await queue.bind(topology.EVENT_EXCHANGE.name, pattern)
                    return
            except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, RuntimeError):
                await pause(0.5)  # the broker has gone meanwhile: bind it in any case

    async def _poison(self) -> None:
        scan_id = await self._extra_scan()
        while scan_id:
            try:
                await poison.publish(self._field, scan_id)
            except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, RuntimeError):
                await pause(0.5)
            else:
                return

    async def _hang_the_images(self, length_s: float) -> None:
        """One more gateway whose list of images lies where every look hangs: it refuses new scans, and does all else."""
        try:
            with hung_folder(self._field.data_dir / f"hung-{time.monotonic_ns()}") as folder:
                async with self._field.guest("api", {"SKYDRIVER_IMAGE_CATALOG": f"directory:{folder}"}):
                    await pause(length_s)
        except OSError as error:
            raise ProcessLookupError from error  # not as root, or without /dev/fuse

    async def _step_a_clock(self, fault: Fault) -> None:
        """One more replica whose clock jumps in mid-life, and back."""
        library = faketime()
        if library is None:
            raise ProcessLookupError
        step = fault.kind.removeprefix("clock ").removesuffix(" s")
        offsets = self._field.data_dir / f"clock-{time.monotonic_ns()}"
        offsets.write_text("+0\n")
        environment = {
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(offsets), "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        async with self._field.guest(fault.victim, environment):
            for offset in (step, "+0"):
                offsets.write_text(f"{offset}\n")
                await pause(fault.length_s / 2)

    async def _forget_a_transaction(self) -> None:
        """Somebody writes, and then thinks: the relay must stand still until the server ends the transaction."""
        connection = await asyncpg.connect(self._field.database_url)
        try:
            await connection.execute("BEGIN; SELECT pg_current_xact_id()")
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            async with asyncio.timeout(RECOVERY_LIMIT_S):
                await ended.wait()
        finally:
            connection.terminate()
