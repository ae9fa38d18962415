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
    after = _position(body["after"]) if "after" in body else 0
    query = dict(body["query"])
    if "after" in body:
        query.pop("_id", None)
    found: list[dict[str, Any]] = []
    size, last = 0, after
    try:
        for number, document in tx.documents(table, after, _workflow_ids(query)):
            if not matches({**document, "_id": _id(number)}, query):
                continue
            shown = (
                {name: document[name] for name in body["projection"] if name in document} if "projection" in body else document
            )
            size += len(json.dumps(shown))
            if size > page_bytes:
                return {table: found, "next_after": _id(last) if found else None}
            found.append(shown)
            last = number
    except BadFilterError as error:
        raise RestError(500, "Internal Server Error") from error
    return {table: found, "next_after": None}


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
