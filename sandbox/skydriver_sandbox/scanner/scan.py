"""A scan from its event to its final result. Source: scanner contract 3, 6, 8, 12."""

import asyncio
import hashlib
import json
import logging
import random
import time
from dataclasses import asdict

import numpy as np
from aio_pika.abc import AbstractIncomingMessage

from skydriver_sandbox import ewms_codec, healpix
from skydriver_sandbox.events import Event, EventRefusedError, read_event
from skydriver_sandbox.likelihood import Reconstruction
from skydriver_sandbox.processes import write_atomically
from skydriver_sandbox.queues import Queue, QueueLostError, QueueProfile, settle
from skydriver_sandbox.scanner.credential_delivery import queue_profiles, upload_startup
from skydriver_sandbox.scanner.journal import Journal, JournalDamagedError, SentRound
from skydriver_sandbox.scanner.options import Options
from skydriver_sandbox.scanner.pixel_ledger import Arrival, PixelLedger
from skydriver_sandbox.scanner.progression import ScanRefusedError
from skydriver_sandbox.scanner.refinement import Pixel
from skydriver_sandbox.scanner.reporter import Reporter
from skydriver_sandbox.scanner.skydriver_client import SkyDriverClient
from skydriver_sandbox.scanner.statistics import Statistics
from skydriver_sandbox.sphere import equatorial

log = logging.getLogger("sandbox.scanner")
JOURNAL_NAME = "journal.jsonl"


class ScanFailedError(Exception):
    """The scan cannot go on; the text says why. Starting the scanner again may help."""


class Scan:
    """One scan of one event; `run` returns when the final result has been taken."""

    def __init__(self, options: Options, skydriver: SkyDriverClient | None) -> None:
        self._options = options
        self._skydriver = skydriver
        self._to_publish: list[tuple[Pixel, int]] = []
        self._heard_at = time.monotonic()

    async def run(self) -> None:
        """Raises ScanRefusedError, ScanFailedError, CallFailed, HandoverFailedError."""
        options = self._options
        self._event = await self._read_event()
        pointed_at = (self._event.facts.ra, self._event.facts.dec) if options.reco_algo == "splinempe_pointed" else None
        self._ledger = PixelLedger(options.progression, options.variations, options.threshold, pointed_at=pointed_at)
        self._stats = Statistics(window_ratio=options.window_ratio, window_min=options.window_min)
        self._reporter = Reporter(options, self._event.metadata, self._ledger, self._stats, self._skydriver)
        write_atomically(options.startup_json, ewms_codec.startup_json(self._event))
        to_workers, from_workers = await queue_profiles(options.ewms_json, limit_s=options.ewms_json_timeout_s)
        self._remember(to_workers.name)
        try:
            await self._reporter.progress("Starting up.", is_first=True)
            if options.upload_json is not None:
                await upload_startup(options.upload_json, options.startup_json, limit_s=options.ewms_json_timeout_s)
            await self._wait_for_workers()
            await self._collect(to_workers, from_workers)
            await self._reporter.final()
            log.info("finished: %d reconstructions", len(self._stats.arrivals))
        finally:
            self._journal.close()

    async def _read_event(self) -> Event:
        if self._skydriver is not None:
            raw = await self._skydriver.event()
        elif self._options.event_file is not None:
            try:
                raw = json.loads(await asyncio.to_thread(self._options.event_file.read_bytes))
            except (OSError, ValueError) as error:
                raise ScanRefusedError(f"--event-file cannot be read: {type(error).__name__}") from error
        try:
            return await asyncio.to_thread(read_event, raw, is_real=self._options.is_real_event)
        except EventRefusedError as error:
            raise ScanRefusedError(str(error)) from error

    def _remember(self, queue_name: str) -> None:
        """Take up what an earlier life of this scan has done."""
        identity = [asdict(self._options.progression), self._options.reco_algo, self._event.facts.key]
        fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        path = self._options.cache_dir / JOURNAL_NAME
        self._journal = Journal(path, fingerprint)
        try:
            past = self._journal.open()
        except JournalDamagedError as error:
            log.warning("starting from zero: %s", error)
            path.replace(path.with_suffix(".damaged"))
            past = self._journal.open()
        for entry in past.entries:
            if isinstance(entry, SentRound):
                self._ledger.mark_sent(entry.pixels, entry.at)
                if self._reporter.first_round_at is None:
                    self._reporter.first_round_at = entry.at
            else:
                self._enter(entry.answer, entry.runtime_s, entry.at)
        if past.started_at is not None:
            self._reporter.started_at = past.started_at
            log.info("going on after a restart: %d reconstructions are here already", len(self._stats.arrivals))
        rounds = [entry for entry in past.entries if isinstance(entry, SentRound)]
        is_same_queue = past.queue == queue_name
        self._to_publish = [
            (pixel, variation)
            for round_ in rounds
            if not (is_same_queue and round_.is_published)
            for pixel in round_.pixels
            for variation in range(self._ledger.variations)
            if self._ledger.is_missing(pixel, variation)
        ]
        self._journal.started(time.time(), queue_name)

    async def _wait_for_workers(self) -> None:
        if self._skydriver is not None:
            await self._skydriver.wait_for_workers(self._options.worker_poll_s)

    async def _collect(self, to_workers: QueueProfile, from_workers: QueueProfile) -> None:
        """Send and receive until nothing is left to do; a lost broker is tried again until the silence limit."""
        pause = 0.1
        self._heard_at = time.monotonic()
        while True:
            try:
                outward, inward = Queue(to_workers), Queue(from_workers, prefetch=self._options.mq_prefetch)
                async with outward, inward:
                    pause = 0.1
                    await self._rounds(outward, inward)
                    return
            except QueueLostError as error:
                self._check_silence()
                log.warning("queue lost, connecting again: %s", error)
                await asyncio.sleep(pause)
                pause = min(10.0, pause * 2)

    async def _rounds(self, outward: Queue, inward: Queue) -> None:
        if self._to_publish:
            await self._publish(outward)
        # After a restart a refinement may be due that the earlier life did not get to.
        risen = self._ledger.risen()
        if risen is not None or self._reporter.first_round_at is None:
            await self._send_round(outward, risen)
        while not (self._ledger.is_everything_collected and await self._is_complete(outward)):
            await inward.start_reading()
            risen = await self._read_until_due(outward, inward)
            # The answer queue is closed while a round goes out; what has been delivered stays here and is read next.
            await inward.stop_reading()
            if risen is not None:
                await self._send_round(outward, risen)

    async def _is_complete(self, outward: Queue) -> bool:
        """With everything back: look at all nsides once more; True if that gives nothing new."""
        if not self._ledger.next_round(None):
            return True
        await self._send_round(outward, None)
        return False

    async def _read_until_due(self, outward: Queue, inward: Queue) -> int | None:
        """Take answers in until a refinement is due (its nside) or everything is back (None)."""
        while not self._ledger.is_everything_collected:
            wait_s = min(self._options.resend_after_s, self._options.mq_timeout_s)
            messages = await inward.next_messages(timeout_s=wait_s, limit=self._options.mq_prefetch)
            if not messages:
                self._check_silence()
                await self._resend_lost(outward)
                continue
            risen = await self._take(inward, messages)
            if risen is not None:
                return risen
        return None

    async def _take(self, inward: Queue, messages: list[AbstractIncomingMessage]) -> int | None:
        """Enter a batch of answers; on disk first, acknowledged then."""
        self._heard_at = time.monotonic()
        risen: int | None = None
        is_first_of_nside = False
        for position, message in enumerate(messages):
            before = len(self._stats.by_nside)
            self._read_answer(message.body)
            is_first_of_nside |= len(self._stats.by_nside) > before
            risen = self._ledger.risen()
            if risen is not None:
                inward.put_back(messages[position + 1 :])
                messages = messages[: position + 1]
                break
        self._journal.flush()
        await settle(messages[-1], multiple=True)
        if is_first_of_nside:
            await self._reporter.both()
        elif self._reporter.is_due():
            await self._reporter.timed()
        return risen

    def _read_answer(self, body: bytes) -> None:
        try:
            answer, runtime_s = ewms_codec.read_answer(ewms_codec.decode(body))
        except ewms_codec.UndecodableError as error:
            log.warning("answer dropped: %s", error)
            return
        now = time.time()
        if self._enter(answer, runtime_s, now) is Arrival.NEW:
            self._journal.received(now, answer, runtime_s)

    def _enter(self, answer: Reconstruction, runtime_s: float, at: float) -> Arrival:
        arrival = self._ledger.accept(answer)
        if arrival is Arrival.NEW:
            self._stats.add(answer.nside, runtime_s, self._ledger.sent_at((answer.nside, answer.pixel_id)), at)
        else:
            where = f"nside {answer.nside} pixel {answer.pixel_id} variation {answer.posvar_id}"
            log.info("%s answer dropped: %s", arrival.value, where)
        return arrival

    async def _send_round(self, outward: Queue, upto: int | None) -> None:
        pixels = sorted(self._ledger.next_round(upto))
        random.shuffle(pixels)
        now = time.time()
        if pixels:
            log.info("sending %d pixels", len(pixels))
            self._journal.sent(now, pixels)
            self._ledger.mark_sent(pixels, now)
            self._to_publish += [(pixel, number) for pixel in pixels for number in range(self._ledger.variations)]
            await self._publish(outward)
        if self._reporter.first_round_at is None:
            self._reporter.first_round_at = now
        await self._reporter.both()

    async def _publish(self, outward: Queue) -> None:
        """Put all that is due into the queue. Stays due if the broker is lost: a pixel sent twice does no harm."""
        await outward.publish_all(self._encoded(self._to_publish))
        self._to_publish = []
        self._journal.published(time.time())

    def _encoded(self, due: list[tuple[Pixel, int]]) -> list[bytes]:
        seeds = self._seeds({pixel for pixel, _ in due})
        version = self._event.format_version
        return [
            ewms_codec.encode(ewms_codec.PixelTask(self._options.reco_algo, version, *pixel, variation).as_json(seeds[pixel]))
            for pixel, variation in due
        ]

    def _seeds(self, pixels: set[Pixel]) -> dict[Pixel, dict[str, float]]:
        """Where each fit starts: the finished coarser pixel that contains it, else the event's own vertex."""
        facts, nsides = self._event.facts, self._ledger.progression.nsides
        seeds: dict[Pixel, dict[str, float]] = {}
        for nside in {nside for nside, _ in pixels}:
            numbers = np.array([pixel for of, pixel in pixels if of == nside], dtype=np.int64)
            place = nsides.index(nside)
            coarser = nsides[place - 1] if place else nside
            finished = self._ledger.finished.get(coarser, {}) if place else {}
            for pixel, mother in zip(numbers.tolist(), healpix.parents(nside, numbers, coarser).tolist(), strict=True):
                ra, dec = equatorial(nside, pixel)
                found = finished.get(mother)
                if found is None or found.llh != found.llh:
                    seeds[nside, pixel] = {
                        "x": 0.0,
                        "y": 0.0,
                        "z": 0.0,
                        "time": 0.0,
                        "energy": facts.energy,
                        "ra": ra,
                        "dec": dec,
                    }
                else:
                    x, y, z = found.position
                    seeds[nside, pixel] = {
                        "x": x, "y": y, "z": z, "time": found.time, "energy": found.energy, "ra": ra, "dec": dec,
                    }  # fmt: skip
        return seeds

    def _check_silence(self) -> None:
        if time.monotonic() - self._heard_at > self._options.mq_timeout_s:
            raise ScanFailedError(f"no message from the workers for {self._options.mq_timeout_s:g} s")

    async def _resend_lost(self, outward: Queue) -> None:
        """Nothing came for a while and no pixel waits in the queue: send what has no answer once more.

        Upstream waits in vain for a worker that took a pixel and gave no output (EWMS contract 11).
        """
        if await outward.waiting():
            return
        self._to_publish = self._ledger.missing()
        log.warning("sending %d pixels again: nobody seems to work on them", len(self._to_publish))
        await self._publish(outward)
