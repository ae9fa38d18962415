"""The connection pool, statements from ``.sql`` files, and a NOTIFY listener that reconnects."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import suppress
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, cast

import aiosql
import asyncpg
import structlog
from aiosql.adapters.asyncpg import AsyncPGAdapter

from skydriver_common.backoff import Backoff
from skydriver_common.db.addresses import with_defaults
from skydriver_common.db.sqlstates import is_of_a_lost_primary
from skydriver_common.waiting import wait_first

logger = structlog.get_logger(__name__)

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

SERVER_SETTINGS = {
    # an abandoned writing transaction would hold back the relay for everybody
    "idle_in_transaction_session_timeout": "30000",
    # a client whose machine is gone lets go of its locks within half a minute, not after two hours
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "jit": "off",
    "timezone": "UTC",
}
"""Of every session that a service opens. Set once it is open: a connection pooler may refuse what it does not know in the packet
that opens it, so that holds the application's name alone."""
_ACQUIRE_LIMIT_S = 5.0
_MAX_UNCOUNTED = 16
"""Errors of one connection that are remembered until it is given back."""
_RECONNECT = Backoff(first_s=0.2, cap_s=5.0)
_LISTENER_CHECK_INTERVAL_S = 20.0


async def no_reset(_: Connection) -> None:
    """Nothing of a session has to be taken back: all our settings and locks end with their transaction (the driver still rolls
    back an open one). The driver's own way asks the server once more for each statement."""


async def open_pool(
    database_url: str, *, name: str, size: int = 10, command_timeout_s: float = 30.0,
    check: Callable[[Connection], Awaitable[None]] | None = None, observer: "PoolObserver | None" = None,
) -> Pool:  # fmt: skip
    """A pool of at most ``size`` connections. Raises what asyncpg raises when the server can't be reached.

    observer: is told what happens, for metrics.
    check: called with each new connection; one that it raises for is not used, and whoever asked for it meets that error.
    """

    async def set_up(connection: Connection) -> None:
        await _set_up(connection)
        if check is not None:
            await check(connection)

    pool = _BoundedPool(
        with_defaults(database_url),
        connection_class=_Watched,
        record_class=asyncpg.Record,
        min_size=1,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
        timeout=10,
        command_timeout=command_timeout_s,
        init=set_up,
        reset=no_reset,
        server_settings={"application_name": f"skydriver-{name}"},
    )
    pool.observer = observer
    return await pool


class PoolObserver(Protocol):
    """Is told what happens in a pool, for metrics."""

    def waited(self, seconds: float) -> None:
        """So long somebody has waited for a connection."""

    def failed(self, sqlstate: str) -> None:
        """A statement has failed, or no connection was to be had (08000)."""


async def connect(
    database_url: str, *, name: str, command_timeout_s: float | None = None, **settings: str
) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection outside a pool, to a server that takes writes when the URL names several. settings: beside those of all sessions.

    Raises what asyncpg raises when the server can't be reached.
    """
    connection = await asyncpg.connect(
        with_defaults(database_url),
        timeout=10,
        command_timeout=command_timeout_s,
        server_settings={"application_name": f"skydriver-{name}"},
    )
    try:
        async with asyncio.timeout(10):
            await _set_up(connection, **settings)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _set_up(connection: Connection, **more: str) -> None:
    settings = SERVER_SETTINGS | more
    await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()))


class _Watched(asyncpg.Connection):
    """A connection that notices when its server does not take writes any more, or is shutting down."""

    has_lost_its_primary = False
    uncounted: tuple[str, ...] = ()
    """SQLSTATEs of the errors since it was taken from the pool."""

    def _note(self, error: asyncpg.PostgresError) -> None:
        self.has_lost_its_primary |= is_of_a_lost_primary(error.sqlstate)
        if len(self.uncounted) < _MAX_UNCOUNTED and isinstance(error.sqlstate, str):
            self.uncounted += (error.sqlstate,)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As the driver does."""
        try:
            return await super().execute(query, *args, timeout=timeout)
        except asyncpg.PostgresError as error:
            self._note(error)
            raise

    async def _do_execute(self, *args: Any, **options: Any) -> Any:
        try:
            return await cast(Any, super())._do_execute(*args, **options)  # every way to a prepared statement ends here
        except asyncpg.PostgresError as error:
            self._note(error)
            raise


class _BoundedPool(Pool):
    """A pool whose connections nobody waits for without end: while the server does not answer, waiting would only pile up.

    A connection whose server refused to write is closed and not used again: the next one may reach the new primary.
    """

    observer: PoolObserver | None = None

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """As the pool does."""
        used = getattr(connection, "_con", None)
        if isinstance(used, _Watched) and used.uncounted:
            if self.observer is not None:
                for sqlstate in used.uncounted:
                    self.observer.failed(sqlstate)
            used.uncounted = ()
        if getattr(connection, "has_lost_its_primary", False):
            connection.terminate()
        await super().release(connection, timeout=timeout)

    async def _acquire(self, timeout: float | None) -> Any:
        if self.observer is None:
            return await cast(Any, super())._acquire(timeout)
        began = time.monotonic()
        try:
            return await cast(Any, super())._acquire(timeout)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            self.observer.failed(getattr(error, "sqlstate", None) or "08000")
            raise
        finally:
            self.observer.waited(time.monotonic() - began)

    def acquire(self, *, timeout: float | None = None) -> Any:
        """As the pool does, for at most 5 s unless another limit is given; then TimeoutError."""
        return super().acquire(timeout=_ACQUIRE_LIMIT_S if timeout is None else timeout)


def load_statements(package: str, file: str) -> Any:
    """The named statements of ``<package>/sql/<file>`` as callables (aiosql on asyncpg)."""
    text = (resources.files(package) / "sql" / file).read_text()
    return aiosql.from_str(text, cast(Any, _Adapter), mandatory_parameters=False)


async def fetch(statements: Any, name: str, connection: Pool | Connection, **parameters: Any) -> list[asyncpg.Record]:
    """All rows of a statement at once: the callable's generator takes a turn for each, which whole pages of the log feel."""
    return await connection.fetch(getattr(statements, name).sql, *statements.driver_adapter.ordered(name, parameters))


class _Adapter(AsyncPGAdapter):
    """aiosql's adapter, told that pools answer to the same calls as connections: it would list all names of a connection with each
    statement to learn which of both it is given (10 µs)."""

    def ordered(self, query_name: str, parameters: Any) -> Sequence[Any]:
        """Parameters by name, in the order in which the statement numbers them."""
        in_order: Sequence[Any] = cast(Any, super()).maybe_order_params(query_name, parameters)
        return in_order

    async def select(
        self, conn: Pool | Connection, query_name: str, sql: str, parameters: Any, record_class: object = None
    ) -> AsyncIterator[asyncpg.Record]:
        for row in await conn.fetch(sql, *self.ordered(query_name, parameters)):
            yield row

    async def select_one(
        self, conn: Pool | Connection, query_name: str, sql: str, parameters: Any, record_class: object = None
    ) -> asyncpg.Record | None:
        return await conn.fetchrow(sql, *self.ordered(query_name, parameters))

    async def select_value(self, conn: Pool | Connection, query_name: str, sql: str, parameters: Any) -> Any:
        return await conn.fetchval(sql, *self.ordered(query_name, parameters))

    async def insert_update_delete(self, conn: Pool | Connection, query_name: str, sql: str, parameters: Any) -> str:
        return await conn.execute(sql, *self.ordered(query_name, parameters))


class Listener:
    """One connection that listens; every notification, and every reconnection, calls back.

    Start ``run`` as a background task. A callback gets the payload ("" after a reconnection: something may have been missed).
    """

    def __init__(
        self, database_url: str, callbacks: dict[str, Callable[[str], None]], *, name: str, own: Container[int] = ()
    ) -> None:
        """own: server processes whose notifications are not listened to, because their senders have called back in this process already."""
        self._url = database_url
        self._callbacks = callbacks
        self._name = name
        self._own = own

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until ``stopping`` is set, reconnecting with a pause of at most 5 s."""
        failures = 0
        while not stopping.is_set():
            lost = asyncio.Event()
            try:
                connection = await connect(self._url, name=f"{self._name}-listen")
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                failures += 1
                pause_s = _RECONNECT.pause_s(failures)
                logger.warning("listener.disconnected", error=type(error).__name__, retry_in_s=round(pause_s, 2))
                await wait_first(stopping.wait(), asyncio.sleep(pause_s))
                continue
            failures = 0
            try:
                connection.add_termination_listener(lambda *_, lost=lost: lost.set())
                for channel, callback in self._callbacks.items():
                    await connection.add_listener(channel, partial(self._notified, callback))
                for callback in self._callbacks.values():
                    callback("")
                while not stopping.is_set() and not lost.is_set():
                    await wait_first(stopping.wait(), lost.wait(), asyncio.sleep(_LISTENER_CHECK_INTERVAL_S))
                    await connection.fetchval("SELECT true", timeout=_ACQUIRE_LIMIT_S)  # is anybody at the other end?
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("listener.lost", error=type(error).__name__)
            finally:
                with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=2)

    def _notified(self, callback: Callable[[str], None], _: Any, pid: int, __: str, payload: object) -> None:
        if pid not in self._own:
            callback(str(payload))
