"""Ask Postgres which of some documents a filter matches, without storing them: for many small random cases."""

import json
from collections.abc import Sequence
from typing import Any

import psycopg

from skydriver_api.find.compile import compile_filter
from skydriver_api.find.filters import parse_filter

Connection = psycopg.Connection[tuple[Any, ...]]


def connect(database_url: str) -> Connection:
    """A connection whose statements have the placeholders that the service writes."""
    return psycopg.connect(database_url, autocommit=True, cursor_factory=psycopg.RawCursor, connect_timeout=10)


def matched(connection: Connection, query: object, documents: Sequence[object]) -> list[int]:
    """The places of the documents that the compiled filter matches; its redundant look-up conditions take part."""
    condition = compile_filter(parse_filter(query))
    texts = f"${len(condition.args) + 1}"
    sql = f"""
        SELECT m.n FROM (
            SELECT n, d::jsonb AS doc, d::jsonb ->> 'scan_id' AS scan_id, (d::jsonb ->> 'is_deleted')::boolean AS is_deleted,
                   find_keys_of(convert_to(d, 'UTF8')) AS find_keys
            FROM unnest({texts}::text[]) WITH ORDINALITY AS t(d, n) OFFSET 0
        ) AS m WHERE {condition.sql} ORDER BY m.n"""
    arguments = [*condition.args, [json.dumps(document) for document in documents]]
    return [int(n) - 1 for (n,) in connection.execute(sql, arguments)]
