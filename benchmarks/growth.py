"""Growth in figures: whether a claim, a look of the relay and a decision take longer after an hour's worth of writes.

    python benchmarks/growth.py [--rows 1000000] [--rate 100] [--seconds-worth 3600] [--without] [--snapshot]

The database begins with --rows pieces of due work that wait for months, as many events, and a tenth as many manifests: written by the
server itself, their hashes are not real. Then as many decisions as --rate makes in --seconds-worth (100/s for an hour: 360,000) are made
as fast as it goes: each a progress report through the real unit of work, with its piece of due work and its recorded reply. Beside them one
piece of work is put, claimed and finished for every ten decisions, and a relay looks, reads and moves its cursor whenever something was
written. It publishes to nobody: the broker is no part of this.

Claimed: medians and 95th percentiles of the last tenth are those of the first, but for noise. What else the machine does changes both;
it does not change how many pages a claim and a look touch, which are counted before, and after. An hour that takes minutes is harder than
an hour: autovacuum comes once a minute (--naptime), so it comes a few times instead of sixty.

--without: the same again on a second database whose tables have no storage parameters (autovacuum, fillfactor), for comparison.
--snapshot: the same again while somebody reads in one long transaction, as pg_dump does: nothing that is dead can be removed meanwhile.
A million rows need some 4 GB and some minutes. Starts a server of its own in a temporary folder, talks to loopback only, stops by itself.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from skydriver_cli.embedded import postgres
from skydriver_cli.embedded.ports import choose
from skydriver_common.db.migrate import migrate
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.read import past_cursor
from skydriver_common.log.unit_of_work import UnitOfWork, sql
from skydriver_common.model import events as ev
from skydriver_common.model.commands import Context
from skydriver_common.model.ids import new_scan_id
from skydriver_common.model.rejections import Reply

IN_FLIGHT = 16
SCANS = 400
DECISIONS_PER_CLAIM = 10
TENTHS = 10
KIND, LATER = "bench", "progress.compact"
RELAY = "bench"
PORTION = 100_000
WATCHED = ("due_work", "relay_cursors", "manifests", "command_replies", "event_log")
_TEXT = "the scan goes on " * 50

Took = dict[str, list[list[float]]]
"""Seconds, of each kind of action, in each tenth of the run."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure growth.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="pieces of due work, and events, at the beginning")
    parser.add_argument("--rate", type=int, default=100, help="decisions a second")
    parser.add_argument("--seconds-worth", type=int, default=3600, help="seconds that these decisions would take")
    parser.add_argument("--naptime", default="1min", help="of autovacuum")
    parser.add_argument("--without", action="store_true", help="the same again without storage parameters")
    parser.add_argument("--snapshot", action="store_true", help="the same again beside a long transaction that reads")
    given = parser.parse_args()
    uvloop.run(_measure(given))


async def _measure(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="skydriver-bench-") as folder:
        home = Path(folder)
        port = choose(["postgres"], {})["postgres"]
        server = await postgres.start(home / "postgres", port=port, run_dir=home / "run", log=home / "postgres.log")
        try:
            await _execute(server.url, f"ALTER SYSTEM SET autovacuum_naptime = '{given.naptime}'", "SELECT pg_reload_conf()")
            async with _database(server.url) as url:
                await _run(url, "as it is", given)
            if given.without:
                async with _database(server.url) as url:
                    await _execute(url, _RESET)
                    await _run(url, "without storage parameters", given)
            if given.snapshot:
                async with _database(server.url) as url:
                    await _run(url, "beside a long transaction that reads", given, has_reader=True)
        finally:
            await server.stop()


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement, timeout=600)
    finally:
        await connection.close()


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[str]:
    name = f"bench_{uuid.uuid4().hex[:8]}"
    await _execute(url, f'CREATE DATABASE "{name}"')
    own = urlsplit(url)._replace(path=f"/{name}").geturl()
    await asyncio.to_thread(migrate, own)
    try:
        yield own
    finally:
        await _execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


_RESET = """
DO $$ DECLARE one record; BEGIN
    FOR one IN SELECT c.oid::regclass AS name, split_part(option, '=', 1) AS option
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public', unnest(c.reloptions) AS option
                WHERE c.relkind = 'r'
        UNION ALL
        SELECT c.oid::regclass, 'toast.' || split_part(option, '=', 1)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
          JOIN pg_class t ON t.oid = c.reltoastrelid, unnest(t.reloptions) AS option WHERE c.relkind = 'r'
    LOOP
        EXECUTE format('ALTER TABLE %s RESET (%s)', one.name, one.option);
    END LOOP;
END $$"""

_FILL = {
    "pieces of due work": """
        INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)
        SELECT $3, lpad(to_hex(n), 11, '0') || 'x00000000000000000000', now() + interval '90 days' + n * interval '1 s', 0, now()
          FROM generate_series($1::bigint, $2::bigint) n""",
    "events": """
        INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data,
                               prev_hash, hash)
        SELECT gen_random_uuid(), lpad(to_hex(n / 250), 11, '0') || 'x00000000000000000000', n % 250 + 1, 'scan.progress-reported', 1,
               now(), 'bench', 'c', 'c', $3::bytea, sha256('p'), sha256('h')
          FROM generate_series($1::bigint, $2::bigint) n""",
    "manifests": """
        INSERT INTO manifests (scan_id, version, head_hash, body, rest, is_deleted, event_digest, priority, state, launch_state,
                               request_scan_id, has_final_result)
        SELECT scan_id, 1, '', convert_to(($3::jsonb || jsonb_build_object('scan_id', scan_id))::text, 'UTF8'), '{}', false, 'd', 0,
               'STOPPED__FINAL_RESULT', 'launched', scan_id, true
          FROM (SELECT lpad(to_hex(n), 11, '0') || 'x00000000000000000000' AS scan_id
                  FROM generate_series($1::bigint, $2::bigint) n) AS numbered""",
}


async def _fill(pool: Pool, rows: int) -> None:
    report = _report(1)
    data = orjson.dumps({"progress": report.progress, "producer": "p", "sequence": 1})
    manifest = orjson.dumps(
        {"timestamp": 1.0, "is_deleted": False, "i3_event_id": "e", "classifiers": {}, "progress": report.progress}
    )
    for (name, statement), count, constant in zip(
        _FILL.items(), (rows, rows, rows // 10), (LATER, data, manifest.decode()), strict=True
    ):
        for start in range(0, count, PORTION):
            await pool.execute(statement, start, min(count, start + PORTION) - 1, constant, timeout=600)
        Console(stderr=True).print(f"{count} {name}")
    await pool.execute("VACUUM ANALYZE", timeout=600)


def _report(number: int) -> ev.ProgressReported:
    stats = {"rate": {"pixels/s": "1.0"}, "finished": False}
    return ev.ProgressReported(
        progress={"summary": f"{number} {_TEXT}", "processing_stats": stats}, producer="p", sequence=number
    )


class _Hour:
    """The decisions, and what goes on beside them."""

    def __init__(self, pool: Pool, decisions: int) -> None:
        self._pool, self._decisions = pool, decisions
        self._notifier = Notifier(pool)
        self._uow = UnitOfWork(pool, self._notifier, writer="progress")
        self._made = 0
        self._written = asyncio.Event()
        self._ids: list[str] = []
        self.took: Took = defaultdict(lambda: [[] for _ in range(TENTHS)])

    async def begin(self) -> None:
        """What there is before the first decision."""
        self._ids = await self._scans()
        async with self._pool.acquire() as connection:
            await sql.move_relay_cursor(connection, relay=RELAY, xid=await _xmin(connection), position=0)
        await Schedule(self._pool, self._notifier, holder="bench").put(KIND, "first")

    async def run(self) -> float:
        """Seconds that all of it took."""
        began = time.monotonic()
        beside = [asyncio.create_task(work) for work in (self._relay(), self._claims())]
        await asyncio.gather(*(self._decide(self._ids, which) for which in range(IN_FLIGHT)))
        self._written.set()
        await asyncio.gather(*beside)
        return time.monotonic() - began

    async def _scans(self) -> list[str]:
        uow = UnitOfWork(self._pool, self._notifier, writer="dispatcher")

        async def one() -> str:
            scan_id = new_scan_id()
            event = ev.ScanRequested(
                requested_at=time.time(), request={"priority": 0, "i3_event_id": uuid.uuid4().hex}, request_scan_id=scan_id,
                event_digest="sha256:0", classifiers={}, scanner_server_args="",
            )  # fmt: skip
            async with uow.on_scans(_context(), [scan_id]) as tx:
                tx.append(scan_id, [event])
            return scan_id

        return await asyncio.gather(*(one() for _ in range(SCANS)))

    @property
    def _is_over(self) -> bool:
        return self._made >= self._decisions

    def _note(self, what: str, began: float) -> None:
        self.took[what][min(TENTHS - 1, self._made * TENTHS // self._decisions)].append(time.perf_counter() - began)

    async def _decide(self, scans: list[str], which: int) -> None:
        for number in range(which, self._decisions, IN_FLIGHT):
            scan_id, began = scans[number % len(scans)], time.perf_counter()
            async with self._uow.on_scans(_context(), [scan_id]) as tx:
                tx.append(scan_id, [_report(number)])
                tx.due.put(LATER, scan_id, after=timedelta(days=90))
                tx.record(Reply(body=b"{}"))
            self._note("decision", began)
            self._made += 1
            self._written.set()

    async def _relay(self) -> None:
        """As `Relay` does, without a broker."""
        async with self._pool.acquire() as connection:
            while True:
                await self._written.wait()
                self._written.clear()
                began = time.perf_counter()
                row = await sql.relay_cursor(connection, relay=RELAY)
                batch = await past_cursor(connection, row["xid"], row["position"], most=500, most_bytes=16 * 1024 * 1024)
                if batch:
                    xid, last = batch[-1]
                    await sql.move_relay_cursor(connection, relay=RELAY, xid=xid, position=last.position)
                self._note("relay's look", began)
                if self._is_over:
                    return

    async def _claims(self) -> None:
        schedule = Schedule(self._pool, self._notifier, holder="bench")
        claimed = 0
        while not self._is_over:
            if claimed * DECISIONS_PER_CLAIM >= self._made:
                await asyncio.sleep(0.005)
                continue
            await schedule.put(KIND, uuid.uuid4().hex)
            began = time.perf_counter()
            work = await schedule.claim(KIND)
            self._note("claim", began)
            assert work is not None
            await schedule.finish(work)
            claimed += 1


async def _xmin(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> str:
    return str(await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))


def _context() -> Context:
    return Context(command_id=str(uuid.uuid4()), correlation_id="c", actor="bench")


@asynccontextmanager
async def _reader(url: str, is_wanted: bool) -> AsyncIterator[None]:
    if not is_wanted:
        yield
        return
    connection = await asyncpg.connect(url, timeout=10, server_settings={"idle_in_transaction_session_timeout": "0"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("SELECT count(*) FROM relay_cursors")
            yield
    finally:
        await connection.close()


async def _run(url: str, title: str, given: argparse.Namespace, *, has_reader: bool = False) -> None:
    pool = await open_pool(url, name="bench", size=8)
    try:
        await _fill(pool, given.rows)
        sizes = await _sizes(pool)
        decisions = given.rate * given.seconds_worth
        hour = _Hour(pool, decisions)
        await hour.begin()
        before = await _pages(pool)
        async with _reader(url, has_reader):
            lasted = await hour.run()
            after = await _pages(pool)
        load = os.getloadavg()[0]
        console = Console(width=140)
        console.print(
            f"{title}: {given.rows} rows, {decisions} decisions in {lasted:.0f} s ({decisions / lasted:.0f}/s), load average {load:.1f}"
        )
        console.print(_durations(hour.took))
        console.print("pages touched: " + "; ".join(f"{what} {before[what]} before, {after[what]} after" for what in before))
        await asyncio.sleep(2)  # statistics are written at most once a second
        console.print(await _tables(pool, sizes))
    finally:
        await pool.close()


def _durations(took: Took) -> Table:
    table = Table("ms", "number", "median, first tenth", "last", "ratio", "p95, first tenth", "last", "ratio")
    for what, tenths in took.items():
        figures = [
            (statistics.median(tenth) * 1000, statistics.quantiles(tenth, n=20)[-1] * 1000) for tenth in (tenths[0], tenths[-1])
        ]
        cells = [
            f for first, last in zip(*figures, strict=True) for f in (f"{first:.2f}", f"{last:.2f}", f"{last / first:.2f}")
        ]
        table.add_row(what, str(sum(map(len, tenths))), *cells)
    return table


_LOOKS = {
    "claim": f"SELECT * FROM claim_due_v1('{KIND}', 'bench', 60, 0)",
    "relay's look": f"""SELECT * FROM relay_cursors c, LATERAL (SELECT position FROM event_log e
        WHERE (e.xid, e.position) > (c.xid, c.position) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY e.xid, e.position LIMIT 500) AS next WHERE c.relay = '{RELAY}'""",
}


async def _pages(pool: Pool) -> dict[str, int]:
    """Pages that a claim, and a look of a relay that has nothing to do, touch: tables and indexes, in memory or not."""
    found = {}
    async with pool.acquire() as connection:
        for what, statement in _LOOKS.items():
            for _ in range(2):  # the first time a session looks at a table, it reads about it
                transaction = connection.transaction()
                await transaction.start()
                explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
                await transaction.rollback()
            plan = orjson.loads(explained)[0]["Plan"]
            found[what] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


_SIZES = """SELECT relname, pg_table_size(relid), pg_indexes_size(relid) FROM pg_stat_user_tables WHERE relname = ANY ($1)"""


async def _sizes(pool: Pool) -> dict[str, tuple[int, int]]:
    return {name: (heap, indexes) for name, heap, indexes in await pool.fetch(_SIZES, list(WATCHED))}


async def _tables(pool: Pool, before: dict[str, tuple[int, int]]) -> Table:
    table = Table("table", "MB before", "after", "indexes", "after", "live", "dead", "updates", "of them HOT", "autovacuums")
    after = await _sizes(pool)
    for row in await pool.fetch("SELECT * FROM pg_stat_user_tables WHERE relname = ANY ($1) ORDER BY relname", list(WATCHED)):
        name, updates = row["relname"], row["n_tup_upd"]
        sizes = [f"{size / 2**20:.1f}" for pair in zip(before[name], after[name], strict=True) for size in pair]
        table.add_row(
            name, *sizes, str(row["n_live_tup"]), str(row["n_dead_tup"]), str(updates),
            f"{row['n_tup_hot_upd'] / updates:.0%}" if updates else "–", str(row["autovacuum_count"]),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
