"""The processes of a running system, each restarted when it exits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from skydriver_cli.embedded import postgres, processes, rabbitmq
from skydriver_cli.errors import CliError
from skydriver_common.waiting import wait_first

STOP_LIMIT_S = 6.0
_MAX_PAUSE_S = 30.0
_HEALTHY_S = 10.0
"""A component that has run longer is restarted without a growing pause."""

StatusCallback = Callable[[str], None]
"""Takes one line of text for the person at the terminal."""


@dataclass(slots=True)
class Component:
    """One process of the system, and how to restart it."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    ready_url: str
    child: processes.Child | None = None
    restarts: int = 0


@dataclass(slots=True)
class Server:
    """Postgres or RabbitMQ, if embedded, and how to restart it with the same directory and port."""

    name: str
    start: Callable[[], Awaitable[postgres.Postgres | rabbitmq.RabbitMQ]]
    running: postgres.Postgres | rabbitmq.RabbitMQ | None = None

    async def stop(self) -> None:
        """Stop the server, if it runs."""
        if self.running is not None:
            await self.running.stop()


@dataclass(slots=True)
class System:
    """A running embedded system.

    addresses: name of each part to its address, without secrets. connection: what ``connection.json`` holds, with secrets.
    """

    data_dir: Path
    url: str
    servers: list[Server]
    components: list[Component]
    addresses: dict[str, str]
    connection: dict[str, str] = field(repr=False)
    print_status: StatusCallback
    stop_limit_s: float = STOP_LIMIT_S
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def supervise(self) -> None:
        """Restart every process that exits, with growing pauses, until ``stopping`` is set."""
        await asyncio.gather(
            *(self._supervise_component(component) for component in self.components),
            *(self._supervise_server(server) for server in self.servers),
        )

    async def _supervise_server(self, server: Server) -> None:
        failures = 0
        while not self.stopping.is_set():
            if server.running is not None:
                child = server.running.child
                await wait_first(child.process.wait(), self.stopping.wait())
                if self.stopping.is_set():
                    return
                self.print_status(f"{server.name} exited with code {child.process.returncode}; restarting")
                await server.stop()  # removes what belongs to it: identity file, port mapper
                server.running = None
            await wait_first(asyncio.sleep(min(_MAX_PAUSE_S, 0.5 * 2.0 ** min(failures, 8))), self.stopping.wait())
            if self.stopping.is_set():
                return
            starting, stop = asyncio.ensure_future(server.start()), asyncio.ensure_future(self.stopping.wait())
            await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not starting.done():
                starting.cancel()
            try:
                server.running = await starting
            except asyncio.CancelledError:
                return
            except (OSError, CliError) as error:  # OSError: the disk is full, no process can be created
                failures += 1
                self.print_status(f"{server.name} failed to start; retrying: {error}")
            else:
                failures = 0
                self.print_status(f"{server.name} restarted")

    async def _supervise_component(self, component: Component) -> None:
        while not self.stopping.is_set():
            assert component.child is not None
            started_at = time.monotonic()
            await wait_first(component.child.process.wait(), self.stopping.wait())
            if self.stopping.is_set():
                return
            component.restarts = 0 if time.monotonic() - started_at > _HEALTHY_S else component.restarts + 1
            pause_s = min(_MAX_PAUSE_S, 0.5 * 2.0 ** min(component.restarts, 8))
            code = component.child.process.returncode
            self.print_status(
                f"{component.name} exited with code {code}; restarting in {pause_s:g} s: {component.child.last_lines(1)}"
            )
            await wait_first(asyncio.sleep(pause_s), self.stopping.wait())
            while not self.stopping.is_set():
                try:
                    await start_component(self.data_dir, component)
                except (OSError, CliError) as error:  # OSError: the disk is full, no process can be created
                    self.print_status(f"{component.name} failed to start; retrying in {_MAX_PAUSE_S:g} s: {error}")
                    await wait_first(asyncio.sleep(_MAX_PAUSE_S), self.stopping.wait())
                else:
                    self.print_status(f"{component.name} restarted")
                    break


async def start_component(data_dir: Path, component: Component) -> None:
    """Start the component's process, its log and identity file in the data directory. Raises OSError."""
    component.child = await processes.start(
        component.name,
        component.argv,
        env=component.environment,
        cwd=data_dir,
        log=data_dir / "logs" / f"{component.name}.log",
        identity_file=data_dir / "run" / f"{component.name}.pid.json",
    )
