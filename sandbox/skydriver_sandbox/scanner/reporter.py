"""When to report what to SkyDriver. Source: scanner contract 3 and 6.

Timers are looked at when an answer arrives, as upstream does. A report that fails is logged and forgotten; the two final
ones decide over the scan.
"""

import json
import logging
import os
import signal
import time
from pathlib import Path

from skydriver_sandbox.events import Metadata
from skydriver_sandbox.processes import write_atomically
from skydriver_sandbox.scanner.options import Options
from skydriver_sandbox.scanner.pixel_ledger import PixelLedger
from skydriver_sandbox.scanner.progress import Report, manifest_json
from skydriver_sandbox.scanner.rest_client import NON_URGENT, PERSISTENT, CallFailed, RetryPolicy
from skydriver_sandbox.scanner.results import result_json
from skydriver_sandbox.scanner.skydriver_client import SkyDriverClient
from skydriver_sandbox.scanner.statistics import Statistics

log = logging.getLogger("sandbox.scanner")


class Reporter:
    """Reports of one scan. skydriver: None for a scan that runs alone; it then leaves its result as a file."""

    def __init__(
        self, options: Options, metadata: Metadata, ledger: PixelLedger, stats: Statistics, skydriver: SkyDriverClient | None
    ) -> None:
        self._options = options
        self._metadata = metadata
        self._ledger = ledger
        self._stats = stats
        self._skydriver = skydriver
        self._progress_at = self._result_at = time.monotonic()
        self.started_at = time.time()
        self.first_round_at: float | None = None

    def is_due(self) -> bool:
        """Whether a timed report is due now."""
        now = time.monotonic()
        is_progress_due = now - self._progress_at > self._options.progress_interval_s
        return is_progress_due or now - self._result_at > self._options.result_interval_s

    async def timed(self) -> None:
        """Progress or result or both, whichever's time has come."""
        now = time.monotonic()
        if now - self._progress_at > self._options.progress_interval_s:
            await self.progress("Scanning.")
        if now - self._result_at > self._options.result_interval_s:
            await self.result()

    async def both(self) -> None:
        await self.progress("Scanning.")
        await self.result()

    async def progress(self, summary: str, *, is_first: bool = False) -> None:
        epilogue = "" if is_first else f"Next report in {self._options.progress_interval_s:g} s."
        try:
            await self._send_progress(summary, epilogue, None, NON_URGENT)
        except CallFailed as error:
            log.warning("progress not reported: %s", error)
        self._progress_at = time.monotonic()

    async def result(self) -> None:
        try:
            await self._send_result(is_final=False, patience=NON_URGENT)
        except CallFailed as error:
            log.warning("result not sent: %s", error)
        self._result_at = time.monotonic()

    async def final(self) -> None:
        """The final result, then the last progress. Raises CallFailed when SkyDriver does not take one of them."""
        self._die_if_configured("before-final-result")
        await self._send_result(is_final=True, patience=PERSISTENT)
        self._die_if_configured("before-last-progress")
        await self._send_progress("The scan is finished.", "", time.time(), PERSISTENT)

    def _die_if_configured(self, where: str) -> None:
        """A fault switch: end like a crash, but only in the first life of this scan."""
        marker = self._options.cache_dir / "has-died"
        if self._options.die == where and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    async def _send_progress(self, summary: str, epilogue: str, ended_at: float | None, patience: RetryPolicy) -> None:
        if self._skydriver is None:
            return
        report = Report(
            scan_id=self._options.scan_id,
            summary=summary,
            epilogue=epilogue,
            threshold=self._options.threshold,
            started_at=self.started_at,
            first_round_at=self.first_round_at,
            now=time.time(),
            ended_at=ended_at,
        )
        body = manifest_json(self._ledger, self._stats, self._metadata, report)
        await self._skydriver.report_progress(body, patience)

    async def _send_result(self, *, is_final: bool, patience: RetryPolicy) -> None:
        result = result_json(self._ledger.finished, self._metadata, complete=is_final)
        if self._skydriver is not None:
            await self._skydriver.send_result(result, is_final=is_final, patience=patience)
        if is_final and self._options.output_dir is not None:
            nsides = "_".join(str(nside) for nside in self._ledger.progression.nsides)
            kind = self._metadata.event_type or "unknown"
            name = f"run{self._metadata.run_id:08d}.evt{self._metadata.event_id:012d}.{kind}_{nsides}.json"
            write_atomically(Path(self._options.output_dir) / name, json.dumps(result).encode(), mode=0o644)
