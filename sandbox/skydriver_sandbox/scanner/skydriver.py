"""SkyDriver over HTTP, with the patience the scanner is known for. Source: scanner contract 2.

Urgent calls decide over the scan (60 s each, 24 retries); the others may fail (10 s each, one retry).
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any

import aiohttp

log = logging.getLogger("sandbox.scanner")
_RETRIED = frozenset({408, 413, 429, 500, 502, 503, 504})
_OBEYS_RETRY_AFTER = frozenset({413, 429, 503})
_MAX_PAUSE_S = 120.0


@dataclass(frozen=True)
class Patience:
    """timeout_s per attempt; retries after the first attempt; backoff_s: factor of the doubling pause."""

    timeout_s: float
    retries: int
    backoff_s: float

    def pause_s(self, failures: int) -> float:
        """0 before the first retry, then factor·2, factor·4 …, at most 120."""
        return 0.0 if failures < 2 else min(_MAX_PAUSE_S, self.backoff_s * 2 ** (failures - 1))


URGENT = Patience(timeout_s=60.0, retries=24, backoff_s=0.3)
NON_URGENT = Patience(timeout_s=10.0, retries=1, backoff_s=0.0)


class CallFailedError(Exception):
    """SkyDriver did not answer, or refused; no (further) retry. status: the last HTTP status, None if there was none."""

    def __init__(self, what: str, status: int | None) -> None:
        super().__init__(what)
        self.status = status


class SkyDriver:
    """The five calls of a scanner, see ``Line``. Use as an async context manager. The token is fixed for the scan's life."""

    def __init__(self, address: str, token: str, scan_id: str) -> None:
        self._base = address.rstrip("/")
        self._scan_id = scan_id
        self._token = token

    async def __aenter__(self) -> "SkyDriver":
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def event(self) -> object:
        """The event inside the manifest. Raises CallFailedError."""
        manifest = await self._call("GET", "manifest", None, URGENT)
        return manifest.get("event_i3live_json_dict") if isinstance(manifest, dict) else None

    async def wait_for_workers(self, poll_s: float) -> None:
        """Until one runs, for ever. Unlike upstream, a failed look does not end the scan."""
        while True:
            try:
                if await self._n_running():
                    return
            except CallFailedError as error:
                log.warning("workforce unknown: %s", error)
            await asyncio.sleep(poll_s)

    async def _n_running(self) -> int:
        workforce = await self._call("GET", "ewms/workforce", None, NON_URGENT)
        value = workforce.get("n_running") if isinstance(workforce, dict) else None
        return value if isinstance(value, int) else 0

    async def until_stopped(self, poll_s: float) -> str:
        """Returns when the scan was deleted or its workflow has ended. Unlike upstream, a failed look is not the last one."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                if await self._must_stop():
                    return "the scan was deleted or its workflow ended"
            except CallFailedError as error:
                log.warning("status unknown: %s", error)

    async def report_failure(self, reason: str) -> None:
        """There is no way to over HTTP: SkyDriver learns of it from the process."""

    async def _must_stop(self) -> bool:
        status = await self._call("GET", "status", None, NON_URGENT)
        return isinstance(status, dict) and bool(status.get("is_deleted") or status.get("ewms_deactivated"))

    async def report_progress(self, body: dict[str, Any], patience: Patience) -> None:
        """Raises CallFailedError."""
        await self._call("PATCH", "manifest", body, patience)

    async def send_result(self, result: dict[str, Any], *, is_final: bool, patience: Patience) -> None:
        """Raises CallFailedError."""
        await self._call("PUT", "result", {"skyscan_result": result, "is_final": is_final}, patience)

    async def _call(self, method: str, what: str, body: dict[str, Any] | None, patience: Patience) -> object:
        url = f"{self._base}/scan/{self._scan_id}/{what}"
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        failures = 0
        while True:
            status, problem, wait_s = None, "", 0.0
            try:
                timeout = aiohttp.ClientTimeout(total=patience.timeout_s)
                headers = {"Content-Type": "application/json"} if data is not None else None
                async with self._session.request(method, url, data=data, headers=headers, timeout=timeout) as answer:
                    text = await answer.read()
                    if answer.ok:
                        return _parse(method, what, text)
                    status, problem = answer.status, f"HTTP {answer.status}"
                    if status in _OBEYS_RETRY_AFTER:
                        wait_s = _seconds(answer.headers.get("Retry-After"))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = type(error).__name__
            failures += 1
            if failures > patience.retries or (status is not None and status not in _RETRIED):
                raise CallFailedError(f"{method} {what}: {problem}, after {failures} attempts", status)
            log.info("%s %s: %s, trying again", method, what, problem)
            await asyncio.sleep(max(wait_s, patience.pause_s(failures)))


def _parse(method: str, what: str, text: bytes) -> object:
    if not text.strip():
        return None
    try:
        answer: object = json.loads(text)
    except ValueError as error:
        raise CallFailedError(f"{method} {what}: the answer is not JSON", None) from error
    return answer


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.strip().isdigit() else 0.0
