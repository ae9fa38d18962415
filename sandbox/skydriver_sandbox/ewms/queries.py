"""Listings of documents: filter, projection, pages by bytes. Source: EWMS contract 6."""

import json
from typing import Any

from skydriver_sandbox.ewms.errors import RestError
from skydriver_sandbox.ewms.mongo import BadFilterError, matches
from skydriver_sandbox.ewms.store import Tx

TABLES = {"workflows": "workflows", "task-directives": "task_directives", "taskforces": "taskforces"}


def page(tx: Tx, table: str, body: dict[str, Any], page_bytes: int) -> dict[str, Any]:
    """One page of a listing, in order of creation; `next_after` is null on the last one.

    A page ends just before its documents would exceed page_bytes; a single document above that ends the listing, as
    upstream does. Raises RestError 500 for a filter MongoDB refuses or an unreadable `after`.
    """
    after = _position(body["after"]) if body.get("after") else 0  # an empty text is the first page
    query = dict(body["query"])
    if "after" in body:
        query.pop("_id", None)
    found: list[dict[str, Any]] = []
    size, last = 0, after
    try:
        for number, document in tx.documents(table, after, _workflow_ids(query)):
            if not matches({**document, "_id": _id(number)}, query):
                continue
            shown = _projected(document, body.get("projection", []))
            size += len(json.dumps(shown))
            if size > page_bytes:
                return {table: found, "next_after": _id(last) if found else None}
            found.append(shown)
            last = number
    except BadFilterError as error:
        raise RestError(500, "Internal Server Error") from error
    return {table: found, "next_after": None}


def _projected(document: dict[str, Any], projection: list[str]) -> dict[str, Any]:
    """The fields named, dotted paths too. `_id` is taken out before: a projection of nothing else shows whole documents."""
    names = [name for name in projection if name != "_id"]
    if not names:
        return document
    shown: dict[str, Any] = {}
    for name in names:
        _copy(document, shown, name.split("."))
    return shown


def _copy(source: dict[str, Any], target: dict[str, Any], path: list[str]) -> None:
    """Copy what a dotted path leads to, with the objects on its way; lists are gone through, as MongoDB does."""
    first, rest = path[0], path[1:]
    if first not in source:
        return
    value = source[first]
    if not rest:
        target[first] = value
    elif isinstance(value, dict):
        inner = target.setdefault(first, {})
        if inner is not value:
            _copy(value, inner, rest)
    elif isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        inner_list = target.setdefault(first, [{} for _ in entries])
        for entry, into in zip(entries, inner_list, strict=True):
            _copy(entry, into, rest)


def _workflow_ids(query: dict[str, Any]) -> list[str] | None:
    """The only workflows that can match, None for all: saves reading everything on each poll."""
    match query.get("workflow_id"):
        case str() as one:
            return [one]
        case {"$in": [*some]} if all(isinstance(entry, str) for entry in some) and len(some) < 1000:
            return some
    return None


def _id(number: int) -> str:
    return f"{number:024x}"


def _position(after: str) -> int:
    try:
        if len(after) != 24:
            raise ValueError("an object id has 24 digits")
        return int(after, 16)
    except ValueError as error:
        raise RestError(500, "Internal Server Error") from error
