"""The two HTTP calls a worker makes: fetch `startup.json`, report its status.

Standard library in threads instead of aiohttp: a worker makes a call a second, and there are many workers.
"""

import asyncio
import json
import logging
import urllib.error
import urllib.request
from typing import Any

from skydriver_sandbox.worker.job import Job

log = logging.getLogger("sandbox.worker")
_TIMEOUT_S = 10.0
_MAX_STARTUP_BYTES = 64 * 1024 * 1024


class InitFailedError(Exception):
    """The init container's work failed for good."""


async def fetch(url: str, *, limit_s: float) -> bytes:
    """Download, trying again until it works or `limit_s` have passed. Raises InitFailedError with the last HTTP status.

    Upstream tries once and dies when the upload is late (EWMS contract 13); this waits for it.
    """
    pause, last = 0.1, "no answer"
    try:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    return await asyncio.to_thread(_get, url)
                except urllib.error.HTTPError as error:
                    last = str(error.code)
                    error.close()
                except (OSError, ValueError) as error:
                    last = type(error).__name__
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 1.5)
    except TimeoutError:
        raise InitFailedError(f"init-container failed (exit code 22): {last}") from None


def _get(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise ValueError("only HTTP addresses are fetched")
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 -- the scheme is checked above
        content: bytes = answer.read(_MAX_STARTUP_BYTES)
    return content


class Reporter:
    """Tells the pool a worker's status: at once when it changes, else at most once per interval, and only news."""

    def __init__(self, job: Job, *, interval_s: float = 1.0) -> None:
        self._job = job
        self._interval_s = interval_s
        self._status = "Started"
        self._error: str | None = None
        self._done = 0
        self._changed = asyncio.Event()
        self._sent: dict[str, Any] | None = None

    def status(self, status: str, error: str | None = None) -> None:
        self._status, self._error = status, error if error is not None else self._error
        self._changed.set()

    def count(self) -> None:
        self._done += 1

    @property
    def done(self) -> int:
        return self._done

    def _news(self) -> dict[str, Any]:
        return {"status": self._status, "error": self._error, "done": self._done}

    async def run(self) -> None:
        """Report until cancelled. A report that fails is only logged: the next one carries the newest state."""
        while True:
            await self.send()
            self._changed.clear()
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def send(self) -> None:
        """Report now, if there is anything new."""
        news = self._news()
        if news == self._sent:
            return
        try:
            await asyncio.to_thread(self._post, news)
        except (OSError, ValueError) as error:
            log.warning("status not reported: %s", type(error).__name__)
        else:
            self._sent = news

    def _post(self, news: dict[str, Any]) -> None:
        request = urllib.request.Request(  # noqa: S310 -- the address comes from the pool that started this process
            self._job.report_url,
            data=json.dumps(news).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._job.report_token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 -- as above
                answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise OSError(f"HTTP {error.code}") from None
