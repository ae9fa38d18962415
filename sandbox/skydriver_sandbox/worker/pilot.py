"""The worker's life: init, wait for a first message, one task after the other, an orderly end. Source: EWMS contract 11."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import random
import signal
import time

from aio_pika.abc import AbstractIncomingMessage

from skydriver_sandbox import ewms_codec, likelihood
from skydriver_sandbox.events import Facts
from skydriver_sandbox.queues import Queue, QueueLostError, give_back, settle
from skydriver_sandbox.worker.http import InitFailedError, Reporter, fetch
from skydriver_sandbox.worker.job import Job

log = logging.getLogger("sandbox.worker")
_RECONNECT_LIMIT_S = 300.0
_DONE, _FAILED = 0, 1


class TaskFailedError(Exception):
    """One message could not be worked on; it goes back to its queue."""


class Pilot:
    """One worker. `run` gives the exit code: 0 when it ended by itself, 1 after a fatal error."""

    def __init__(self, job: Job, reporter: Reporter) -> None:
        self._job = job
        self._reporter = reporter
        self._sending: set[asyncio.Task[None]] = set()
        self._lost: QueueLostError | None = None

    async def run(self) -> int:
        reporting = asyncio.create_task(self._reporter.run())
        try:
            return await self._run()
        finally:
            reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporting
            await self._reporter.send()

    async def _run(self) -> int:
        await asyncio.sleep(self._job.faults.start_delay_s)
        try:
            facts = await self._init()
            return await self._serve(facts)
        except (InitFailedError, TaskFailedError) as error:
            log.error("ending: %s", error)
            self._reporter.status("FatalError", str(error))
            await asyncio.sleep(self._job.pilot.quarantine_s)
            return _FAILED

    async def _init(self) -> Facts:
        url = self._job.startup_url()
        if url is None:
            raise InitFailedError("init-container failed (exit code 2): no download address in init_args")
        self._reporter.status("RunningInitCommand")
        content = await fetch(url, limit_s=self._job.pilot.init_timeout_s)
        try:
            return ewms_codec.read_startup(content)
        except ewms_codec.UndecodableError as error:
            raise InitFailedError(f"init-container failed (exit code 1): {error}") from error

    async def _serve(self, facts: Facts) -> int:
        """Work until no message comes; a lost broker is tried again for some minutes."""
        self._reporter.status("AwaitingFirstMessage")
        pause, lost_since = 0.1, None
        while True:
            try:
                queue_in = Queue(self._job.queue_in, prefetch=self._job.pilot.prefetch)
                async with queue_in, Queue(self._job.queue_out) as queue_out:
                    pause, lost_since = 0.1, None
                    await queue_in.start_reading()
                    await self._work(facts, queue_in, queue_out)
                    self._reporter.status("Done")
                    return _DONE
            except QueueLostError as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _RECONNECT_LIMIT_S:
                    raise TaskFailedError(f"ConnectionError: {error}") from error
                log.warning("queue lost, connecting again: %s", error)
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)

    async def _work(self, facts: Facts, queue_in: Queue, queue_out: Queue) -> None:
        self._lost = None
        try:
            while True:
                first = self._reporter.done == 0
                limit = self._job.pilot.first_message_timeout_s if first else self._job.pilot.idle_timeout_s
                messages = await queue_in.next_messages(timeout_s=limit, limit=self._job.pilot.prefetch)
                if self._lost is not None:
                    raise self._lost
                if not messages:
                    self._reporter.status("PendingRemainingTasks")
                    break
                for message in messages:
                    await self._one(facts, message, queue_out)
            await asyncio.gather(*self._sending)
            if self._lost is not None:
                raise self._lost
        finally:
            for task in self._sending:
                task.cancel()

    async def _one(self, facts: Facts, message: AbstractIncomingMessage, queue_out: Queue) -> None:
        if self._reporter.done == 0:
            self._reporter.status("Tasking")
        try:
            async with asyncio.timeout(self._job.pilot.task_timeout_s):
                answers = await self._reconstruct(facts, message.body)
        except (TaskFailedError, TimeoutError) as error:
            await give_back(message)
            reason = f"task failed (exit code 1): {error or 'TimeoutError: the task took too long'}"
            if self._job.pilot.stop_on_task_error:
                raise TaskFailedError(reason) from error
            self._reporter.status("Tasking", reason)
            return
        self._reporter.count()
        # Publishing waits for the broker's disk; the next pixel need not wait for it.
        task = asyncio.create_task(self._answer(message, answers, queue_out))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _answer(self, message: AbstractIncomingMessage, answers: list[bytes], queue_out: Queue) -> None:
        """Publish, then ack: a worker that dies in between leaves a message that is done twice, never one that is lost."""
        try:
            for answer in answers:
                await queue_out.publish(answer)
            await settle(message)
        except QueueLostError as error:
            self._lost = error

    async def _reconstruct(self, facts: Facts, body: bytes) -> list[bytes]:
        started, faults = time.monotonic(), self._job.faults
        try:
            task = ewms_codec.read_pixel_task(ewms_codec.decode(body))
            answer = likelihood.reconstruct(facts, task.reco_algo, task.nside, task.pixel, task.variation)
        except (ewms_codec.UndecodableError, ValueError) as error:
            raise TaskFailedError(f"ValueError: {error}") from error
        if task.reco_algo == "crash_dummy" or _happens(faults.fail):
            raise TaskFailedError("RuntimeError: this reconstruction fails on purpose")
        if _happens(faults.die):
            os.kill(os.getpid(), signal.SIGKILL)
        if _happens(faults.hang):
            await asyncio.Event().wait()
        pause = likelihood.duration(
            facts, task.nside, task.pixel, task.variation, mean_s=self._job.mean_s, jitter=self._job.jitter
        )
        if pause:
            await asyncio.sleep(pause)
        if _happens(faults.nan):
            answer = dataclasses.replace(answer, llh=float("nan"))
        if _happens(faults.unknown_pixel):
            answer = dataclasses.replace(answer, posvar_id=answer.posvar_id + 1000)
        encoded = ewms_codec.encode(ewms_codec.answer_json(answer, time.monotonic() - started))
        if _happens(faults.no_output):
            return []
        return [encoded, encoded] if _happens(faults.double) else [encoded]


def _happens(chance: float) -> bool:
    return chance > 0 and random.random() < chance  # noqa: S311 -- a fault switch, not a secret
