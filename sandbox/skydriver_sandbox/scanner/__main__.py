"""`python -m skydriver_sandbox.scanner …`: ends with 0 when done, 2 when refused for good, 1 after a failure that may pass,
128 + the signal's number when stopped.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvloop

from skydriver_sandbox.scanner.handover import HandoverFailedError
from skydriver_sandbox.scanner.options import Options, read_options
from skydriver_sandbox.scanner.progression import ScanRefusedError
from skydriver_sandbox.scanner.scan import Scan, ScanFailedError
from skydriver_sandbox.scanner.skydriver import CallFailedError, SkyDriver

log = logging.getLogger("sandbox.scanner")


class _Stop:
    """Ends the scan's task and remembers why."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.number: int | None = None

    def __call__(self, number: int) -> None:
        self.number = number
        self._task.cancel()


async def _watch_kill_switch(skydriver: SkyDriver, every_s: float, stop: _Stop) -> None:
    """Stop the scan when it is deleted or its workflow has ended. Unlike upstream, a failed look is not the last one."""
    while True:
        await asyncio.sleep(every_s)
        try:
            if await skydriver.must_stop():
                log.warning("stopping: the scan was deleted or its workflow ended")
                stop(signal.SIGINT)
                return
        except CallFailedError as error:
            log.warning("status unknown: %s", error)


async def _scan(options: Options) -> int:
    async with contextlib.AsyncExitStack() as stack:
        skydriver: SkyDriver | None = None
        if options.address:
            skydriver = await stack.enter_async_context(SkyDriver(options.address, options.token, options.scan_id))
        task = asyncio.create_task(Scan(options, skydriver).run())
        stop = _Stop(task)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        watch: asyncio.Task[None] | None = None
        if skydriver is not None:
            watch = asyncio.create_task(_watch_kill_switch(skydriver, options.kill_switch_interval_s, stop))
        try:
            await task
        except asyncio.CancelledError:
            return 128 + (stop.number or signal.SIGTERM)
        finally:
            if watch is not None:
                watch.cancel()
    return 0


def main() -> int:
    try:
        options = read_options(sys.argv[1:], os.environ)
        level = options.log_level if options.log_level in logging.getLevelNamesMapping() else "INFO"
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
        for noisy in ("aio_pika", "aiormq"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_scan(options))
    except ScanRefusedError as error:
        sys.stderr.write(f"scan refused: {error}\n")
        return 2
    except (ScanFailedError, CallFailedError, HandoverFailedError, OSError) as error:
        sys.stderr.write(f"scan failed: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
