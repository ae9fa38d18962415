"""``GET /scans``: a list for people, by words in the query string. Programs that need a filter of their own have POST /scans/find."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.find.listing import ListQuery, Order, list_page
from skydriver_api.http.http_errors import HttpError, check_client
from skydriver_api.http.query_params import parse_flag, parse_integer
from skydriver_api.payloads.parameters import (
    DEFAULT_SCANS,
    LIST_PARAMETERS,
    MAX_LISTED_ID,
    MAX_LISTED_PRIORITY,
    MAX_SCANS,
    SCAN_STATES,
    STATE_WORDS,
)
from skydriver_api.routes.responses import json_response
from skydriver_common.db.errors import database_faults

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_CLASSIFIERS = 20


async def list_scans(request: web.Request) -> web.StreamResponse:
    """``GET /scans``: a page of summaries; ``next`` is what ``after`` of the next page is."""
    query = _parse(request)
    deps = request.app[DEPS]
    async with deps.searches.hold():
        check_client(request)
        with database_faults():
            page = await list_page(deps.reads.pool, query)
    return json_response(page.as_json())


def _parse(request: web.Request) -> ListQuery:
    """Parse the query string. Raises HttpError 400 that names the parameter."""
    for name in request.query:
        if name not in LIST_PARAMETERS:
            raise HttpError(400, f"{name[:64]}: no parameter of this route; there are {', '.join(LIST_PARAMETERS)}")
    return ListQuery(
        states=tuple(dict.fromkeys(_states(request))),
        run_id=_integer(request, "run_id", 0, MAX_LISTED_ID),
        event_id=_integer(request, "event_id", 0, MAX_LISTED_ID),
        i3_event_id=_id(request, "i3_event_id"),
        ewms_workflow_id=_id(request, "ewms_workflow_id"),
        classifiers=tuple(_classifiers(request)),
        since=_moment(request, "since"),
        until=_moment(request, "until"),
        min_priority=_integer(request, "min_priority", -MAX_LISTED_PRIORITY, MAX_LISTED_PRIORITY),
        max_priority=_integer(request, "max_priority", -MAX_LISTED_PRIORITY, MAX_LISTED_PRIORITY),
        include_deleted=parse_flag(request, "include_deleted"),
        order=_order(request),
        after=_id(request, "after"),
        limit=parse_integer(request.query.get("limit", ""), "limit", default=DEFAULT_SCANS, minimum=1, maximum=MAX_SCANS),
    )


def _words(request: web.Request, name: str) -> Iterator[str]:
    """The values of a parameter that may be given several times, or once with commas."""
    for text in request.query.getall(name, []):
        yield from (word for part in text.split(",") if (word := part.strip()))


def _states(request: web.Request) -> Iterator[str]:
    for word in _words(request, "state"):
        name = word.upper().replace("-", "_")
        matching = [state for state in SCAN_STATES if name in (state, state.partition("__")[0])]
        matching = matching or [state for state in SCAN_STATES if state.startswith(STATE_WORDS.get(name, "-"))]
        if not matching:
            raise HttpError(400, "state: must be a scan state, or one of " + ", ".join(_state_words()))
        yield from matching


def _state_words() -> list[str]:
    return sorted({*(state.partition("__")[0].lower() for state in SCAN_STATES), *(word.lower() for word in STATE_WORDS)})


def _classifiers(request: web.Request) -> Iterator[tuple[str, tuple[str | int | float | bool, ...]]]:
    pairs = list(request.query.getall("classifier", []))
    if len(pairs) > _MAX_CLASSIFIERS:
        raise HttpError(400, f"classifier: must be given at most {_MAX_CLASSIFIERS} times")
    for pair in pairs:
        name, colon, text = pair.partition(":")
        if not colon or not name.strip() or "." in name or name.startswith("$") or not (name + text).isprintable():
            raise HttpError(400, "classifier: must be NAME:VALUE, the name without a dot and not beginning with $")
        values: list[str | int | float | bool] = [text]
        with suppress(ValueError):
            literal = json.loads(text)
            if isinstance(literal, bool) or (
                isinstance(literal, int | float) and abs(literal) < 1e15 and math.isfinite(literal)
            ):
                values.append(literal)
        yield name, tuple(values)


def _integer(request: web.Request, name: str, minimum: int, maximum: int) -> int | None:
    text = request.query.get(name, "").strip()
    if not text:
        return None
    if re.fullmatch(r"-?[0-9]{1,10}", text) and minimum <= int(text) <= maximum:
        return int(text)
    raise HttpError(400, f"{name}: must be an integer from {minimum} to {maximum}")


def _id(request: web.Request, name: str) -> str | None:
    text = request.query.get(name, "").strip()
    if text and _ID.fullmatch(text) is None:
        raise HttpError(400, f"{name}: must be an id of letters, digits, _ and -")
    return text or None


def _moment(request: web.Request, name: str) -> float | None:
    """Unix seconds of a number, or of a time as ISO 8601 (UTC where it names no zone)."""
    text = request.query.get(name, "").strip()
    if not text:
        return None
    moment = math.nan
    with suppress(ValueError, OverflowError):
        moment = float(text)
    if math.isnan(moment):
        with suppress(ValueError, OverflowError):
            parsed = datetime.fromisoformat(text)
            moment = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(moment):
        raise HttpError(400, f"{name}: must be Unix seconds, or a time like 2026-01-31T12:00:00Z")
    return moment


def _order(request: web.Request) -> Order:
    text = request.query.get("order", "").strip().lower() or Order.NEWEST
    with suppress(ValueError):
        return Order(text)
    raise HttpError(400, "order: must be newest, oldest or priority")
