"""EWMS over HTTP: the port `Ewms` with a token, a limit on every wait, and each failure sorted by what it means.

Nothing is repeated here but a call that EWMS refused for a stale token, which it does before anything else. Repeating reads
is the loops' part; repeating what makes something is nobody's. Source: EWMS contract 2 to 8.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast

import aiohttp
import orjson
import structlog
from pydantic import SecretStr

from skydriver_common.faults import TryLater
from skydriver_common.model.event_codec import decode, encode, read_json
from skydriver_common.model.ids import ScanId
from skydriver_common.trust import client_context
from skydriver_ewms_bridge.adapters import ewms_codec as wire
from skydriver_ewms_bridge.adapters.oauth2 import ClientCredentials
from skydriver_ewms_bridge.decide.refusals import is_final_refusal
from skydriver_ewms_bridge.ewms_types import (
    INSTANCE_MARK,
    SCAN_MARK,
    Json,
    QueueProfile,
    TaskDirective,
    Taskforce,
    Workflow,
    WorkflowSpec,
)
from skydriver_ewms_bridge.ports import (
    EwmsNotFound,
    EwmsRejected,
    EwmsRejectedForNow,
    Guard,
    OnUnreadable,
    OutcomeUnknown,
    WorkflowEnded,
)
from skydriver_ewms_bridge.retry_policy import (
    ACCESS_DENIED_RETRY_S,
    INVALID_RESPONSE_RETRY_S,
    MAX_RETRY_AFTER_S,
    REJECTED_FOR_NOW_RETRY_S,
    UNREACHABLE_RETRY_S,
)

T = TypeVar("T")

logger = structlog.get_logger(__name__)

DIRECTIVE_FIELDS = ["workflow_id", "task_id", "timestamp", "cluster_locations"]
WORKFLOW_FIELDS = ["workflow_id", "timestamp", "priority", "deactivated"]
TASKFORCE_FIELDS = [
    "taskforce_uuid", "task_id", "workflow_id", "timestamp", "priority", "n_workers", "schedd", "phase", "cluster_id",
    "phase_change_log", "compound_statuses", "top_task_errors",
]  # fmt: skip
WAITING_FIELDS = ["taskforce_uuid", "task_id", "workflow_id", "timestamp", "priority", "n_workers", "phase"]

MAX_ANSWER_BYTES = 64 << 20
"""A page is at most 10 MiB of documents; more than this is no EWMS."""

OnCall = Callable[[str, str, float], None]
"""Called with (call, outcome, seconds), for metrics."""
_PATH_WORDS = frozenset({
    "query", "workflows", "taskforces", "task-directives", "mqs", "mq-profiles", "public", "actions", "abort", "finished",
    "add-workers",
})  # fmt: skip

_PATH_ID = re.compile(r"[A-Za-z0-9_-]+")
_ABOUT_OUR_RIGHTS = re.compile(r"auth(?:entication|orization) failed", re.IGNORECASE)
"""What EWMS says of our token itself: that holds for all scans, and none of them is refused for it."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_MAX_REASON = 400


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after_s: float | None
    document: dict[str, Json] | None  # None: no JSON object

    @property
    def error(self) -> str:
        text = (self.document or {}).get("error")
        return text if isinstance(text, str) else ""


class _NotSent(Exception):
    """No connection: EWMS has not seen the request."""


class _NoAnswer(Exception):
    """The request went out, and no complete answer came back."""


class _NoGuard:
    """Every call may pass."""

    def call(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class EwmsRest:
    """The port `Ewms` over HTTP. Build it with `open_ewms`.

    reads: its connections are kept. writes: a fresh connection per call, since one that EWMS closed while it was idle
    looks exactly like an answer that was lost.
    """

    def __init__(
        self,
        reads: aiohttp.ClientSession,
        writes: aiohttp.ClientSession,
        *,
        base_url: str,
        credentials: ClientCredentials,
        instance: str,
        guard: Guard | None = None,
        read_timeout_s: float = 30.0,
        write_timeout_s: float = 120.0,
        connect_timeout_s: float = 5.0,
        on_call: OnCall = lambda *_: None,
    ) -> None:
        self._on_call = on_call
        self._reads, self._writes = reads, writes
        self._base = base_url.rstrip("/") + "/v1"
        self._credentials = credentials
        self._instance = instance
        self._guard = guard or _NoGuard()
        self._read_timeout = aiohttp.ClientTimeout(total=read_timeout_s, sock_connect=connect_timeout_s)
        self._write_timeout = aiohttp.ClientTimeout(total=write_timeout_s, sock_connect=connect_timeout_s)

    async def ping(self) -> None:
        """See `ports.Ewms`."""
        await self._answer_to_read("GET", "/", None)

    async def find_workflows_of(self, scan_id: ScanId, since: float) -> tuple[Workflow, ...]:
        """See `ports.Ewms`. The time range spares EWMS a scan of all directives ever made."""
        query: dict[str, Json] = {
            f"task_env.{SCAN_MARK}": scan_id,
            f"task_env.{INSTANCE_MARK}": self._instance,
            "timestamp": {"$gte": since},
        }
        ids: dict[str, None] = {}
        async for page in self._pages("task-directives", "task_directives", query, DIRECTIVE_FIELDS):
            ids.update(dict.fromkeys(d.workflow_id for d in _parsed(page, wire.task_directive)))
        return await self.get_workflows(ids)

    async def create_workflow(self, spec: WorkflowSpec) -> Workflow:
        """See `ports.Ewms`."""
        what = "create workflow"
        try:
            answer = await self._make("/workflows", dict(spec), what)
        except (EwmsNotFound, WorkflowEnded) as fault:
            raise EwmsRejectedForNow("a response that does not belong to this request") from fault
        try:
            return wire.workflow(wire.as_object((answer.document or {}).get("workflow"), "workflow"))
        except wire.Unreadable as fault:
            raise OutcomeUnknown(what) from fault

    async def get_workflow(self, workflow_id: str) -> Workflow:
        """See `ports.Ewms`."""
        return _readable(wire.workflow, await self._read("GET", f"/workflows/{_safe(workflow_id)}"))

    async def get_workflows(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> tuple[Workflow, ...]:
        """See `ports.Ewms`."""
        if not workflow_ids:
            return ()
        query: dict[str, Json] = {"workflow_id": {"$in": list(workflow_ids)}}
        found: dict[str, Workflow] = {}
        async for page in self._pages("workflows", "workflows", query, WORKFLOW_FIELDS):
            found.update((w.workflow_id, w) for w in _parsed(page, wire.workflow, on_unreadable))
        return tuple(found.values())

    async def queue_profiles(self, workflow_id: str) -> tuple[QueueProfile, ...]:
        """See `ports.Ewms`."""
        document = await self._read("GET", f"/mqs/workflows/{_safe(workflow_id)}/mq-profiles/public")
        return _readable(lambda d: wire.parse_all(d, "mqprofiles", wire.queue_profile), document)

    async def waiting_for_queues(self) -> tuple[Taskforce, ...]:
        """See `ports.Ewms`."""
        query: dict[str, Json] = {"phase": "pre-mq-activation"}
        pages = self._pages("taskforces", "taskforces", query, WAITING_FIELDS)
        return tuple([t async for page in pages for t in _parsed(page, wire.taskforce, _skip)])

    async def abort(self, workflow_id: str) -> None:
        """See `ports.Ewms`."""
        await self._read("POST", f"/workflows/{_safe(workflow_id)}/actions/abort", {})

    async def finish(self, workflow_id: str) -> None:
        """See `ports.Ewms`."""
        await self._read("POST", f"/workflows/{_safe(workflow_id)}/actions/finished", {})

    async def find_taskforces(
        self, workflow_ids: Collection[str], *, on_unreadable: OnUnreadable | None = None
    ) -> AsyncIterator[Sequence[Taskforce]]:
        """See `ports.Ewms`."""
        if not workflow_ids:
            return
        query: dict[str, Json] = {"workflow_id": {"$in": list(workflow_ids)}}
        async for page in self._pages("taskforces", "taskforces", query, TASKFORCE_FIELDS):
            yield _parsed(page, wire.taskforce, on_unreadable)

    async def raw_taskforces(self, workflow_id: str) -> AsyncIterator[Sequence[dict[str, Json]]]:
        """See `ports.Ewms`."""
        async for page in self._pages("taskforces", "taskforces", {"workflow_id": workflow_id}, None):
            yield _parsed(page, lambda item: item)

    async def task_directives(self, workflow_id: str) -> tuple[TaskDirective, ...]:
        """See `ports.Ewms`."""
        pages = self._pages("task-directives", "task_directives", {"workflow_id": workflow_id}, DIRECTIVE_FIELDS)
        return tuple([d async for page in pages for d in _parsed(page, wire.task_directive)])

    async def add_workers(self, task_id: str, cluster_location: str, n_workers: int) -> Taskforce:
        """See `ports.Ewms`."""
        what = "add workers"
        body: dict[str, Json] = {"cluster_location": cluster_location, "n_workers": n_workers}
        answer = await self._make(f"/task-directives/{_safe(task_id)}/actions/add-workers", body, what)
        try:
            return wire.taskforce(wire.as_object(answer.document, "the answer"))
        except wire.Unreadable as fault:
            raise OutcomeUnknown(what) from fault

    async def _pages(
        self, path: str, key: str, query: dict[str, Json], projection: list[str] | None
    ) -> AsyncIterator[list[Json]]:
        body: dict[str, Json] = {"query": query}
        if projection is not None:
            body["projection"] = list(projection)
        while True:
            document = await self._read("POST", f"/query/{path}", body)
            yield _readable(lambda d: wire.items(d, key), document)
            after = document.get("next_after")
            if after is None:
                return
            if not isinstance(after, str) or after == body.get("after"):
                raise _unreadable("next_after leads nowhere")
            body = {**body, "after": after}

    async def _read(self, method: str, path: str, body: dict[str, Json] | None = None) -> dict[str, Json]:
        """A call that may be repeated at will: all that is not an answer is TryLater. Raises EwmsNotFound, EwmsRejected."""
        async with self._guard.call():
            return await self._answer_to_read(method, path, body)

    async def _answer_to_read(self, method: str, path: str, body: dict[str, Json] | None) -> dict[str, Json]:
        try:
            answer = await self._authenticated(self._reads, self._read_timeout, method, path, body)
        except _NotSent as fault:
            raise TryLater("EWMS is not reachable", UNREACHABLE_RETRY_S) from fault
        except _NoAnswer as fault:
            raise TryLater("EWMS did not respond", UNREACHABLE_RETRY_S) from fault
        if answer.status == 200:
            if answer.document is None:
                raise _unreadable("the response is not a JSON object")
            return answer.document
        if answer.status >= 500:
            raise TryLater("EWMS responded with HTTP 5xx", answer.retry_after_s or UNREACHABLE_RETRY_S)
        raise _refusal(answer)

    async def _make(self, path: str, body: dict[str, Json], what: str) -> _Answer:
        """A call that makes something. Only answers that EWMS gives before it acts count as "nothing happened"."""
        async with self._guard.call():
            return await self._answer_to_make(path, body, what)

    async def _answer_to_make(self, path: str, body: dict[str, Json], what: str) -> _Answer:
        try:
            answer = await self._authenticated(self._writes, self._write_timeout, "POST", path, body)
        except _NotSent as fault:
            raise TryLater("EWMS is not reachable", UNREACHABLE_RETRY_S) from fault
        except _NoAnswer as fault:
            raise OutcomeUnknown(what) from fault
        if answer.status == 200:
            return answer
        if answer.status == 503 and answer.retry_after_s is not None:
            raise TryLater("EWMS is overloaded", answer.retry_after_s)  # its guard stands before the handler
        if answer.status >= 500 or answer.status == 408:
            raise OutcomeUnknown(what, longer_by_s=answer.retry_after_s or 0.0)
        raise _refusal_to_make(answer)

    async def _authenticated(
        self,
        session: aiohttp.ClientSession,
        timeout: aiohttp.ClientTimeout,
        method: str,
        path: str,
        body: dict[str, Json] | None,
    ) -> _Answer:
        token = await self._credentials.token()
        answer = await self._exchange(session, timeout, method, path, body, token)
        if answer.status == 403 and "authentication" in answer.error:
            self._credentials.drop(token)
            token = await self._credentials.token()
            answer = await self._exchange(session, timeout, method, path, body, token)
        return answer

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        timeout: aiohttp.ClientTimeout,
        method: str,
        path: str,
        body: dict[str, Json] | None,
        token: SecretStr,
    ) -> _Answer:
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = orjson.dumps(body)
        began, outcome = time.monotonic(), "no-answer"
        try:
            async with session.request(
                method, self._base + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await _limited(response)
                outcome = f"{response.status // 100}xx"
                return _Answer(response.status, _retry_after(response), await _object_or_none(raw))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as fault:
            outcome = "not-sent"
            raise _NotSent from fault
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise _NoAnswer from fault
        finally:
            self._on_call(_call_of(method, path), outcome, time.monotonic() - began)


def _call_of(method: str, path: str) -> str:
    """A call without its ids, as in ``POST workflows/actions/abort``."""
    return f"{method} {'/'.join(word for word in path.split('/') if word in _PATH_WORDS) or 'other'}"


@asynccontextmanager
async def open_ewms(
    *,
    url: str,
    issuer: str,
    client_id: str,
    client_secret: SecretStr,
    instance: str,
    write_timeout_s: float = 120.0,
    guard: Guard | None = None,
    on_call: OnCall = lambda *_: None,
) -> AsyncIterator[EwmsRest]:
    """EWMS at `url`, for one process; its connections are closed at the end. Nothing is asked of it before the first call."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context())) as reads,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context(), force_close=True)) as writes,
    ):
        credentials = ClientCredentials(reads, issuer=issuer, client_id=client_id, client_secret=client_secret)
        yield EwmsRest(
            reads,
            writes,
            base_url=url,
            credentials=credentials,
            instance=instance,
            guard=guard,
            write_timeout_s=write_timeout_s,
            on_call=on_call,
        )


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return bytes(raw)


async def _object_or_none(raw: bytes) -> dict[str, Json] | None:
    try:
        document = read_json(raw)
    except (ValueError, RecursionError):
        if not raw.lstrip().startswith(b"{"):
            return None
        document = await asyncio.to_thread(_without_nan, raw)
    return cast(dict[str, Json], document) if isinstance(document, dict) else None


def _without_nan(raw: bytes) -> object:
    """Numbers that EWMS, which writes JSON as Python does, has beyond the standard become null; None: more than that is wrong."""
    try:
        return decode(encode(json.loads(raw, parse_constant=lambda _: None, parse_float=_finite)))
    except (ValueError, TypeError, RecursionError):
        return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    # The other form of the header, a date, is not what EWMS sends.
    text = response.headers.get("Retry-After", "")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else None


def _refusal_to_make(answer: _Answer) -> Exception:
    """The same for a request to make something, where the answer may change with time and the caller has to know."""
    if answer.status not in (400, 403, 409, 423, 429) or _ABOUT_OUR_RIGHTS.match(answer.error):
        return _refusal(answer)
    reason = _one_line(answer.error)
    if is_final_refusal(answer.status, answer.error):
        return EwmsRejected(reason)
    if answer.status == 403:
        logger.error("ewms.access-refused", reason=reason)
    return EwmsRejectedForNow(reason, after_s=answer.retry_after_s or 0.0)


def _refusal(answer: _Answer) -> Exception:
    """What an answer means that says "no" without having done anything."""
    match answer.status:
        case 404 if answer.error:
            return EwmsNotFound()
        case 422:
            return WorkflowEnded()
        case 400:
            return EwmsRejected(_one_line(answer.error))
        case 403:
            # Our own right is missing, never the caller's: an operator has to look.
            logger.error("ewms.access-refused", reason=_one_line(answer.error))
            return TryLater("EWMS denied access to our client (HTTP 403)", answer.retry_after_s or ACCESS_DENIED_RETRY_S)
        case 409 | 423 | 429:
            logger.warning("ewms.refused-for-now", status=answer.status, reason=_one_line(answer.error))
            return TryLater("EWMS rejected the request for now", answer.retry_after_s or REJECTED_FOR_NOW_RETRY_S)
        case status:
            # Also an HTML 404: a wrong address must not pass for "there is no such workflow".
            logger.error("ewms.unexpected-status", status=status)
            return TryLater(
                f"EWMS responded with an unexpected status ({status})", answer.retry_after_s or REJECTED_FOR_NOW_RETRY_S
            )


def _readable(parse: Callable[[dict[str, Json]], T], document: dict[str, Json]) -> T:
    try:
        return parse(document)
    except wire.Unreadable as fault:
        raise _unreadable(str(fault)) from fault


def _parsed(page: list[Json], parse: Callable[[dict[str, Json]], T], on_unreadable: OnUnreadable | None = None) -> list[T]:
    """The documents of a page. With `on_unreadable` one that can't be read is passed over, else the whole page is unreadable."""
    parsed = []
    for item in page:
        try:
            parsed.append(parse(wire.as_object(item, "an item of the page")))
        except wire.Unreadable as fault:
            if on_unreadable is None:
                raise _unreadable(str(fault)) from fault
            workflow_id = wire.workflow_id_of(item)
            logger.warning("ewms.unreadable-document", workflow_id=workflow_id, why=str(fault))
            on_unreadable(workflow_id)
    return parsed


def _skip(_: str) -> None:
    """Somebody else's document, mostly."""


def _unreadable(why: str) -> TryLater:
    logger.warning("ewms.response-invalid", why=why)
    return TryLater("EWMS sent a response that cannot be parsed", INVALID_RESPONSE_RETRY_S)


def _safe(part: str) -> str:
    """An id as part of a path. What EWMS could not have given out does not exist there. Raises EwmsNotFound."""
    if _PATH_ID.fullmatch(part) is None:
        raise EwmsNotFound
    return part


def _one_line(text: str) -> str:
    # The reason may reach a manifest's reader; a presigned URL would be a credential.
    plain = _URL.sub("<address>", " ".join(text.split()))
    return "".join(c for c in plain if c.isprintable())[:_MAX_REASON] or "no reason given"
