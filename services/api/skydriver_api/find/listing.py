"""``GET /scans``: a page of summaries, newest first, oldest first or by priority.

A page costs the same however many scans there are: it is read in the order of an index, from where the page before ended. With a
state, each of its states is read in its own order (an index of state and scan id), and the pages are merged. A run, an event or a
classifier is looked up in the index of ``find_keys``; of a common classifier the newest scans are looked through first.
"""

from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import orjson

from skydriver_api.find.compile import Condition, compile_filter
from skydriver_api.find.errors import BadFilter, TooSlow
from skydriver_api.find.filters import parse_filter
from skydriver_common.db.pool import Pool

__all__ = ["ListQuery", "Order", "ScanPage", "list_page", "statement_of"]

_STATEMENT_S = 10.0
_LOOKED_THROUGH = 2_000
"""Scans that are looked through for a classifier before its index is asked: where it is common, they fill a page."""
_LONGEST_SUMMARY = 300

_SUMMARY = f"""
jsonb_build_object('scan_id', m.scan_id, 'timestamp', m.doc -> 'timestamp', 'scan_state', m.state, 'is_deleted', m.is_deleted,
    'priority', m.doc -> 'priority', 'run_id', m.doc #> '{{event_metadata,run_id}}', 'event_id', m.doc #> '{{event_metadata,event_id}}',
    'event_type', m.doc #> '{{event_metadata,event_type}}', 'mjd', m.doc #> '{{event_metadata,mjd}}',
    'is_real_event', m.doc #> '{{event_metadata,is_real_event}}', 'i3_event_id', m.doc -> 'i3_event_id',
    'classifiers', m.doc -> 'classifiers', 'ewms_workflow_id', m.doc -> 'ewms_workflow_id',
    'replaced_by_scan_id', m.doc -> 'replaced_by_scan_id',
    'progress_summary', left(m.doc #>> '{{progress,summary}}', {_LONGEST_SUMMARY}), 'last_updated', m.doc -> 'last_updated')::text"""


class Order(StrEnum):
    """newest, oldest: by the time of the request. priority: the highest first, of equal ones the newest."""

    NEWEST = "newest"
    OLDEST = "oldest"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A checked request. states: any of these, empty: all. since, until: Unix seconds of the request, until excluded.

    classifiers: values of which one must match, by name. after: the last scan of the page before. limit: 1 or more.
    """

    states: tuple[str, ...] = ()
    run_id: int | None = None
    event_id: int | None = None
    i3_event_id: str | None = None
    ewms_workflow_id: str | None = None
    classifiers: tuple[tuple[str, tuple[str | int | float | bool, ...]], ...] = ()
    since: float | None = None
    until: float | None = None
    min_priority: int | None = None
    max_priority: int | None = None
    include_deleted: bool = False
    order: Order = Order.NEWEST
    after: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ScanPage:
    """scans: summaries as JSON. next: what ``after`` of the next page is, None on the last one."""

    scans: list[bytes]
    next: str | None

    def as_json(self) -> bytes:
        """The body of the response."""
        return b'{"scans":[%b],"next":%b}' % (b",".join(self.scans), orjson.dumps(self.next))


async def list_page(pool: Pool, query: ListQuery) -> ScanPage:
    """Return a page. Raises BadFilter (also TooSlow); errors of the driver pass through."""
    attempts = [statement_of(query)]
    if query.classifiers and not query.states and query.order != Order.PRIORITY:
        attempts.insert(0, statement_of(query, looked_through=_LOOKED_THROUGH))
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute(
            "SELECT set_config('statement_timeout', $1, true), set_config('plan_cache_mode', 'force_custom_plan', true)",
            f"{round(_STATEMENT_S * 1000)}ms",
        )
        rows: list[asyncpg.Record] = []
        for sql, args in attempts:
            try:
                rows = await connection.fetch(sql, *args, timeout=_STATEMENT_S + 10.0)
            except asyncpg.QueryCanceledError as slow:
                raise TooSlow(_STATEMENT_S) from slow
            if len(rows) > query.limit:
                break
    shown = rows[: query.limit]
    return ScanPage([row["summary"].encode() for row in shown], shown[-1]["scan_id"] if len(rows) > query.limit else None)


def _filter_of(query: ListQuery) -> dict[str, object]:
    """The part of the request that speaks of the Manifest, as a filter of ``POST /scans/find``."""
    equal = {
        "event_metadata.run_id": query.run_id,
        "event_metadata.event_id": query.event_id,
        "i3_event_id": query.i3_event_id,
        "ewms_workflow_id": query.ewms_workflow_id,
    }
    wanted: dict[str, object] = {path: value for path, value in equal.items() if value is not None}
    for name, values in query.classifiers:
        if "." in name or name.startswith("$"):
            raise BadFilter("the name of a classifier must not hold a dot, nor begin with $", "classifier")
        wanted[f"classifiers.{name}"] = {"$in": list(values)}
    return wanted


def statement_of(query: ListQuery, *, looked_through: int | None = None) -> tuple[str, list[object]]:
    """The statement and its arguments. looked_through: only so many scans, from where the page begins. Raises BadFilter."""
    filtered = _filter_of(query)
    condition = compile_filter(parse_filter(filtered)) if filtered else Condition("true", (), ())
    args = list(condition.args)

    def bind(value: object, type_: str) -> str:
        args.append(value)
        return f"${len(args)}::{type_}"

    is_ascending = query.order == Order.OLDEST
    direction, beyond = ("ASC", ">") if is_ascending else ("DESC", "<")
    limit = bind(query.limit + 1, "bigint")
    where = [] if query.include_deleted else ["NOT m.is_deleted"]
    if query.after is not None:
        after = bind(query.after, "text")
        if query.order == Order.PRIORITY:
            place = f"SELECT p.priority, p.scan_id FROM manifests p WHERE p.scan_id = {after}"  # noqa: S608 - placeholders only
            where.append(f"(m.priority, m.scan_id) < ({place})")
        else:
            where.append(f'm.scan_id {beyond} {after} COLLATE "C"')
    for moment, comparison in ((query.since, ">="), (query.until, "<")):
        if moment is not None:  # a scan id begins with milliseconds as eleven hexadecimal digits, then x; very old ones do not
            where.append(f'm.scan_id {comparison} {bind(_first_id(moment), "text")} COLLATE "C"')
    if query.since is not None or query.until is not None:
        where.append("substr(m.scan_id, 12, 1) = 'x'")
    for priority, comparison in ((query.min_priority, ">="), (query.max_priority, "<=")):
        if priority is not None:
            where.append(f"m.priority {comparison} {bind(priority, 'integer')}")
    everything = [*where, f"({condition.sql})"]
    order = f"{'m.priority DESC, ' if query.order == Order.PRIORITY else ''}m.scan_id {direction}"
    if query.states and query.order != Order.PRIORITY:
        states = bind(list(query.states), "text[]")
        of_one = f"SELECT m.scan_id FROM manifests m WHERE m.state = wanted.state AND {' AND '.join(everything)}"  # noqa: S608
        found = (
            f"SELECT part.scan_id FROM unnest({states}) AS wanted(state)"  # noqa: S608
            f" CROSS JOIN LATERAL ({of_one} ORDER BY {order} LIMIT {limit}) AS part ORDER BY part.scan_id {direction} LIMIT {limit}"
        )
    else:
        if query.states:
            everything.append(f"m.state = ANY({bind(list(query.states), 'text[]')})")
        source = "manifests m"
        if looked_through is not None:
            near = bind(looked_through, "bigint")
            conditions = " AND ".join(where) or "true"
            source = f"(SELECT * FROM manifests m WHERE {conditions} ORDER BY {order} LIMIT {near}) AS m"  # noqa: S608
        found = f"SELECT m.scan_id FROM {source} WHERE {' AND '.join(everything)} ORDER BY {order} LIMIT {limit}"  # noqa: S608
    sql = f"SELECT m.scan_id, {_SUMMARY} AS summary FROM ({found}) AS found JOIN manifests m USING (scan_id) ORDER BY {order}"  # noqa: S608
    return sql, args


def _first_id(moment: float) -> str:
    """What no scan id of a scan that was requested at this moment, or later, is below."""
    return f"{max(0, min(round(moment * 1000), 16**11 - 1)):011x}"
