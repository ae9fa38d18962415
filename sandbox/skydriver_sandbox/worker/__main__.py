"""`python -m skydriver_sandbox.worker`: started by the stand-in EWMS, never by hand."""

import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvloop

from skydriver_sandbox.processes import die_with_parent
from skydriver_sandbox.worker.http import Reporter
from skydriver_sandbox.worker.job import JOB_VARIABLE, BadJobError, read_job
from skydriver_sandbox.worker.pilot import Pilot


async def _run(pilot: Pilot) -> int:
    task = asyncio.ensure_future(pilot.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    return 128 + signal.SIGTERM


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        job = read_job(os.environ)
    except BadJobError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2
    # Not needed any more, and it holds tokens: keep it out of anything this process may start or show.
    os.environ.pop(JOB_VARIABLE, None)
    die_with_parent(job.parent_pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(Pilot(job, Reporter(job))))


if __name__ == "__main__":
    sys.exit(main())
