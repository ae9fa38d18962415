"""SkyDriver's REST routes as a scanner uses them, with its patience."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from skydriver_scanner.errors import CallFailed
from skydriver_scanner.wire import PRODUCER_HEADER, PROGRESS, RESULT, SEQUENCE_HEADER

log = logging.getLogger("skydriver_scanner")

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_OBEYS_RETRY_AFTER = frozenset({413, 429, 503})
"""413 is tried again only if it says when."""
_MAX_PAUSE_S = 120.0
_ROUTES = {PROGRESS: ("PATCH", "manifest"), RESULT: ("PUT", "result")}


@dataclass(frozen=True)
class Patience:
    """timeout_s per attempt; retries after the first attempt; backoff_s: factor of the doubling pause."""

    timeout_s: float
    retries: int
    backoff_s: float = 0.3

    def pause_s(self, failures: int) -> float:
        """0 before the first retry, then factor·2, factor·4 …, at most 120."""
        return 0.0 if failures < 2 else min(_MAX_PAUSE_S, self.backoff_s * 2.0 ** (failures - 1))


URGENT = Patience(timeout_s=60.0, retries=24)
"""Of calls that decide over the scan. Source: scanner contract 2."""
ONCE = Patience(timeout_s=60.0, retries=0)
QUICK = Patience(timeout_s=10.0, retries=0)


@dataclass(frozen=True)
class Status:
    """What a scanner reads of its scan's status."""

    is_deleted: bool
    ewms_deactivated: str | None


class Rest:
    """The calls of a scanner. To be made and used in one event loop; ``close`` it there."""

    def __init__(self, address: str, token: str, scan_id: str) -> None:
        self._base = f"{address.rstrip('/')}/scan/{scan_id}"
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"} if token else {})

    async def close(self) -> None:
        await self._session.close()

    async def event(self) -> dict[str, Any]:
        """The i3 event. Raises CallFailed."""
        manifest = await self.call("GET", "manifest", None, URGENT)
        event = manifest.get("event_i3live_json_dict") if isinstance(manifest, dict) else None
        if not isinstance(event, dict):
            raise CallFailed("GET manifest: the answer holds no event", None)
        return event

    async def n_running(self) -> int:
        """Workers that run now. Raises CallFailed."""
        workforce = await self.call("GET", "ewms/workforce", None, QUICK)
        value = workforce.get("n_running") if isinstance(workforce, dict) else None
        return value if isinstance(value, int) else 0

    async def status(self) -> Status:
        """Raises CallFailed."""
        status = await self.call("GET", "status", None, QUICK)
        if not isinstance(status, dict):
            raise CallFailed("GET status: the answer is no object", None)
        label = status.get("ewms_deactivated")
        return Status(bool(status.get("is_deleted")), str(label) if label else None)

    async def send(self, kind: str, plain: bytes, *, producer: str, sequence: int) -> None:
        """A message's body by the route of its kind, one attempt. Raises CallFailed."""
        if kind not in _ROUTES:
            raise CallFailed(f"a {kind} report can't be sent over REST", None)
        method, what = _ROUTES[kind]
        place = {PRODUCER_HEADER: producer, SEQUENCE_HEADER: str(sequence)}
        await self.call(method, what, plain, ONCE, place)

    async def call(
        self, method: str, what: str, body: bytes | None, patience: Patience, place: Mapping[str, str] | None = None
    ) -> object:
        """One call below the scan's address, as JSON; None for an empty answer. Raises CallFailed when patience is at its end."""
        failures = 0
        while True:
            status, wait_s, is_final = None, 0.0, False
            try:
                timeout = aiohttp.ClientTimeout(total=patience.timeout_s)
                headers = {"Content-Type": "application/json", **(place or {})} if body is not None else None
                data = None if body is None else io.BytesIO(body)  # sent in pieces: a skymap must not hold up the loop
                async with self._session.request(
                    method, f"{self._base}/{what}", data=data, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer:
                    text = await answer.read()
                    if 200 <= answer.status < 300:
                        return _parse(method, what, text)
                    status, problem = answer.status, f"HTTP {answer.status}"
                    when = answer.headers.get("Retry-After") if status in _OBEYS_RETRY_AFTER else None
                    wait_s = _seconds(when)
                    is_final = 400 <= status < 500 and status not in _RETRIED and when is None
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                problem = type(error).__name__
            failures += 1
            is_retried = status is None or status in _RETRIED or (status == 413 and not is_final)
            if failures > patience.retries or not is_retried:
                raise CallFailed(f"{method} {what}: {problem}", status, is_final=is_final, wait_s=wait_s)
            log.info("%s %s: %s, trying again", method, what, problem)
            await asyncio.sleep(max(wait_s, patience.pause_s(failures)))


def _parse(method: str, what: str, text: bytes) -> object:
    if not text.strip():
        return None
    try:
        answer: object = json.loads(text)
    except ValueError as error:
        raise CallFailed(f"{method} {what}: the answer is no JSON", None) from error
    return answer


def _seconds(text: str | None) -> float:
    return min(_MAX_PAUSE_S, float(text)) if text is not None and text.strip().isdigit() else 0.0
