"""Run a search over the manifest view and stream what it finds, in bounded memory.

Source: REST contract 1.6, 4.3, 10.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from skydriver_api.find.compile import compile_filter
from skydriver_api.find.errors import BadFilter, Place, TooSlow
from skydriver_api.find.filters import parse_filter
from skydriver_api.find.literals import checked_text
from skydriver_api.find.nodes import Node
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId

__all__ = ["EXCLUDED", "FindQuery", "Limits", "Statement", "find_query", "projected_fields", "statement_for", "stream"]

EXCLUDED = frozenset({"ewms_task", "event_i3live_json_dict", "event_i3live_json_dict__hash"})

_FETCH_ROWS = 500
_FETCH_BYTES = 1_000_000
_FIRST_FETCH = 50
_OFF_THE_LOOP_BYTES = 256 * 1024
_CHECK_EXPRESSIONS = "SELECT count(*) FROM unnest($1::text[]) AS e(pattern) WHERE ''::text COLLATE \"pg_c_utf8\" ~ e.pattern"


@dataclass(frozen=True, slots=True)
class Limits:
    """statement_s: for planning, and for each portion of rows. idle_s: for the client to take one. total_s: for everything."""

    statement_s: float = 20.0
    idle_s: float = 60.0
    total_s: float = 900.0


@dataclass(frozen=True, slots=True)
class FindQuery:
    """A checked search. fields: top-level Manifest fields to keep, None for all but EXCLUDED. after: only later scan ids."""

    node: Node
    with_deleted: bool
    fields: frozenset[str] | None = None
    limit: int | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """expressions: the (regular expression, place) pairs among the arguments."""

    sql: str
    args: tuple[object, ...]
    expressions: tuple[tuple[str, Place | str], ...]


def projected_fields(projection: str | Sequence[str] | None) -> frozenset[str] | None:
    """The fields to keep, or None for all allowed ones. Raises BadFilter. Source: REST contract 1.6, 4.3.

    A name that is no Manifest field selects nothing. One of EXCLUDED is refused, even beside `*`.
    """
    if projection is None or projection == "*":
        return None
    if isinstance(projection, str):
        raise BadFilter('must be "*" or an array of field names', "manifest_projection")
    if any(not isinstance(name, str) or not name.strip() for name in projection):
        raise BadFilter("must not contain a blank name", "manifest_projection")
    if len(set(projection)) < len(projection):
        raise BadFilter("must not name a field twice", "manifest_projection")
    if refused := sorted(EXCLUDED.intersection(projection)):
        raise BadFilter(f"{', '.join(refused)} cannot be selected in a search", "manifest_projection")
    return None if not projection or "*" in projection else frozenset(projection)


def find_query(
    raw_filter: object,
    *,
    include_deleted: bool = False,
    projection: str | Sequence[str] | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> FindQuery:
    """Check the body of `POST /scans/find`. Raises BadFilter.

    A top-level `is_deleted` in the filter decides alone; one below `$or` doesn't. Source: REST contract 4.3.
    """
    node = parse_filter(raw_filter)
    assert isinstance(raw_filter, dict)
    if limit is not None and limit < 1:
        raise BadFilter("must be 1 or more", "limit")
    return FindQuery(
        node=node,
        with_deleted=include_deleted or "is_deleted" in raw_filter,
        fields=projected_fields(projection),
        limit=limit,
        after=None if after is None else checked_text(after, "after"),
    )


def statement_for(query: FindQuery) -> Statement:
    """The one statement of a search, ascending by scan id. Columns: scan_id, body (NULL where it isn't needed)."""
    condition = compile_filter(query.node)
    args = list(condition.args)
    where = [condition.sql]
    if not query.with_deleted:
        where.insert(0, "NOT m.is_deleted")
    if query.after is not None:
        args.append(query.after)
        where.append(f'm.scan_id > ${len(args)}::text COLLATE "C"')
    limit = ""
    if query.limit is not None:
        args.append(min(query.limit, 2**62))
        limit = f" LIMIT ${len(args)}::bigint"
    column = "m.body" if _needs_body(query.fields) else "NULL::bytea AS body"
    sql = f'SELECT m.scan_id, {column} FROM manifests m WHERE {" AND ".join(where)} ORDER BY m.scan_id COLLATE "C"{limit}'  # noqa: S608
    return Statement(sql, tuple(args), condition.expressions)


async def stream(
    pool: "asyncpg.Pool[asyncpg.Record]",
    query: FindQuery,
    limits: Limits = Limits(),
    *,
    statement: Statement | None = None,
) -> AsyncGenerator[bytes, None]:
    """Each match as the JSON bytes of its Manifest, projected; ascending by scan id. Close it (`aclosing`) if left early.

    statement: of this query, when it is there already: a large one is better made off the loop.
    Holds one connection and one read-only snapshot; memory holds about 1 MB of rows at a time. Numbers come as they are stored.
    Raises BadFilter (also TooSlow) before the first row for whatever the filter is to blame for, as far as that shows by then;
    TooSlow can also come later, so a response that has begun must then be cut off, not ended. Driver errors pass through.
    """
    statement = statement or statement_for(query)
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        try:
            await connection.execute(
                "SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),"
                " set_config('transaction_timeout', $3, true), set_config('plan_cache_mode', 'force_custom_plan', true)",
                *(f"{round(seconds * 1000)}ms" for seconds in (limits.statement_s, limits.idle_s, limits.total_s)),
                timeout=limits.statement_s,
            )
            await _check_expressions(connection, statement.expressions, limits)
            # The server's own limit comes first; the one here only ends waiting for a server that is gone.
            max_wait_s = limits.statement_s + 10.0
            prepared = await connection.prepare(statement.sql, timeout=max_wait_s)
            cursor = await prepared.cursor(*statement.args, timeout=max_wait_s)
            portion = _FIRST_FETCH
            while rows := await cursor.fetch(portion, timeout=max_wait_s):
                size = sum(len(row["body"] or b"") for row in rows)
                projected = partial(_all_projected, rows, query.fields)
                manifests = await asyncio.to_thread(projected) if size > _OFF_THE_LOOP_BYTES else projected()
                portion = max(1, min(_FETCH_ROWS, portion * 4, len(rows) * _FETCH_BYTES // (size + 1)))
                for manifest in manifests:
                    yield manifest
        except asyncpg.QueryCanceledError as slow:
            raise TooSlow(limits.statement_s) from slow
        except (asyncpg.StatementTooComplexError, asyncpg.ProgramLimitExceededError, asyncpg.TooManyArgumentsError) as large:
            raise BadFilter(
                "the filter is too large or too deeply nested; use $in instead of many branches, or split the request"
            ) from large


async def _check_expressions(
    connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
    expressions: Sequence[tuple[str, Place | str]],
    limits: Limits,
) -> None:
    """Ask the engine about regular expressions by themselves: a bad one is refused even if no row would ever meet it."""
    if not expressions:
        return
    ask = partial(connection.fetchval, _CHECK_EXPRESSIONS, timeout=limits.statement_s + 10.0)
    try:
        async with connection.transaction():  # a savepoint: after a refusal the bad one is looked for
            await ask([expression for expression, _ in expressions])
    except asyncpg.InvalidRegularExpressionError:
        for expression, path in expressions:
            try:
                await ask([expression])
            except asyncpg.InvalidRegularExpressionError as bad:
                raise BadFilter(f"invalid regular expression: {bad.message if hasattr(bad, 'message') else bad}", path) from bad


def _needs_body(fields: frozenset[str] | None) -> bool:
    return fields is None or bool(fields - {"scan_id"})


def _all_projected(rows: Sequence[asyncpg.Record], fields: frozenset[str] | None) -> list[bytes]:
    return [_projected(row["scan_id"], row["body"], fields) for row in rows]


def _projected(scan_id: ScanId, body: bytes | None, fields: frozenset[str] | None) -> bytes:
    """The fields of a stored Manifest that were selected, in its own order."""
    if body is None:
        return event_codec.encode({"scan_id": scan_id} if fields else {})
    manifest = event_codec.read_json(body)
    if fields is None:
        return event_codec.encode({name: value for name, value in manifest.items() if name not in EXCLUDED})
    return event_codec.encode({name: value for name, value in manifest.items() if name in fields})
